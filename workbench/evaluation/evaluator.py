"""Draws samples and scores them: in batches, sharded over ranks, with a fingerprint."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation.frechet import FeatureSums
from workbench.evaluation.metrics import Metric
from workbench.flow.noise import NoiseSource

Draw = Callable[[list[str], int, int], Tensor]
Gather = Callable[[Any], list[Any]]

_RANGE_TOLERANCE = 1e-3
_VERSIONED = ("torch", "numpy", "scipy", "diffusers")


@dataclass(frozen=True)
class Sampler:
    """What is scored.

    Attributes:
        draw: ``draw(prompts, start, count)`` returns images (count, 3, H, W) in [0, 1] of the
            global samples ``start .. start + count``. Take the noise by sample index from
            :attr:`Evaluator.noise`; then neither batch size nor ranks change a sample.
        steps: sampling steps.
        nfe: network evaluations per image, guidance's second pass counted.
    """

    draw: Draw
    steps: int
    nfe: float


@dataclass(frozen=True)
class Scores:
    """Scores of one sampler.

    Attributes:
        values: score by metric name.
        fingerprint: everything besides the sampler's weights that decides the scores; scores are
            comparable exactly when the fingerprints' ``"id"`` agree, apart from the sampler's own
            ``"steps"`` when those are what is compared.
        seconds: wall time of the whole evaluation.
        ms_per_image: time spent drawing, per image and per device, without each rank's first
            (warm-up) batch unless there is only that one; scoring is not counted.
        nfe: network evaluations per image.
    """

    values: Mapping[str, float]
    fingerprint: Mapping[str, Any]
    seconds: float
    ms_per_image: float
    nfe: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


@dataclass
class _Share:
    """What one rank has seen; this is all that travels between ranks."""

    sums: dict[str, FeatureSums]
    problem: tuple[int, str] | None = None
    draw_seconds: list[float] = field(default_factory=list)
    draw_counts: list[int] = field(default_factory=list)

    def timed(self) -> tuple[float, int]:
        """Seconds and images without the warm-up batch, unless that is all there is."""
        warm = 1 if len(self.draw_counts) > 1 else 0
        return sum(self.draw_seconds[warm:]), sum(self.draw_counts[warm:])


@dataclass(frozen=True)
class Evaluator:
    """A fixed protocol of evaluation: metrics, prompts, seed. One sample for every prompt.

    Raises:
        RequestError: fewer than 2 prompts, no metric, two metrics of one name, or a batch size
            below 1.
    """

    metrics: Sequence[Metric]
    prompts: tuple[str, ...]
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise RequestError(f"An evaluation needs metrics of distinct names, not {names}.")
        if len(self.prompts) < 2:
            raise RequestError(
                f"An evaluation needs at least 2 samples, not {len(self.prompts)}: a Frechet "
                "distance needs a covariance."
            )
        if self.batch_size < 1:
            raise RequestError(f"The evaluation's batch size is {self.batch_size}; at least 1.")

    @property
    def samples(self) -> int:
        return len(self.prompts)

    @property
    def noise(self) -> NoiseSource:
        """The noise every sampler draws from, so that all are compared on the same noise."""
        return NoiseSource(self.seed)

    def evaluate(
        self,
        sampler: Sampler,
        *,
        rank: int = 0,
        world: int = 1,
        gather: Gather = lambda value: [value],
    ) -> Scores:
        """Draw every sample once and score them; all ranks return the same scores.

        Batch b covers samples ``b * batch_size ...`` on any number of ranks and goes to rank
        ``b % world``, so that the images do not depend on sharding, nor do the scores in any bit.
        When batches do not divide by ranks, a rank left over draws one unused sample in the last
        round: a sharded network needs every rank in every call.

        Args:
            sampler: what is scored.
            rank, world: this process among its peers.
            gather: every rank's object, in rank order, on every rank.

        Raises:
            WorkbenchError: an image is not finite, not in [0, 1] or of the wrong shape, on any
                rank (all raise); no score is computed then.
        """
        began = time.perf_counter()
        shares: list[_Share] = gather(self._share(sampler, rank, world))
        problems = [share.problem for share in shares if share.problem is not None]
        if problems:
            raise WorkbenchError(min(problems)[1])
        values = {}
        for metric in self.metrics:
            total = FeatureSums()
            for share in shares:
                total.merge(share.sums[metric.name])
            values[metric.name] = metric.score(total.statistics())
        timed = [share.timed() for share in shares]
        images = sum(count for _, count in timed)
        return Scores(
            values=values,
            fingerprint=self.fingerprint(sampler.steps),
            seconds=time.perf_counter() - began,
            ms_per_image=1000.0 * sum(seconds for seconds, _ in timed) / images,
            nfe=sampler.nfe,
        )

    def fingerprint(self, steps: int) -> dict[str, Any]:
        """JSON-serialisable identity of the scores, with its own short hash as ``"id"``."""
        parts = {**self._ingredients, "steps": steps}
        return {**parts, "id": _short_hash(parts)}

    @cached_property
    def protocol(self) -> str:
        """Short hash of all that decides the scores besides the sampler and its steps."""
        return _short_hash(self._ingredients)

    @property
    def _ingredients(self) -> dict[str, Any]:
        return {
            "metrics": {metric.name: dict(metric.ingredients) for metric in self.metrics},
            "samples": self.samples,
            "prompts": self._prompts_hash,
            "seed": self.seed,
            "versions": {name: _version(name) for name in _VERSIONED},
        }

    @cached_property
    def _prompts_hash(self) -> str:
        return _short_hash(self.prompts)

    @torch.no_grad()
    def _share(self, sampler: Sampler, rank: int, world: int) -> _Share:
        share = _Share({metric.name: FeatureSums() for metric in self.metrics})
        batches = -(-self.samples // self.batch_size)
        for first in range(0, batches, world):
            start = (first + rank) * self.batch_size
            if start >= self.samples:
                sampler.draw(list(self.prompts[:1]), 0, 1)
                continue
            prompts = list(self.prompts[start : start + self.batch_size])
            images = _timed_draw(sampler, prompts, start, share)
            problem = _problem(images, prompts, start)
            if problem is None and share.problem is None:
                try:
                    for metric in self.metrics:
                        share.sums[metric.name].update(metric.observe(images, prompts))
                except WorkbenchError as error:
                    problem = (start, str(error))
            # The rank goes on drawing: its peers may wait for it inside a sharded network.
            share.problem = share.problem or problem
        return share


def _timed_draw(sampler: Sampler, prompts: list[str], start: int, share: _Share) -> Tensor:
    began = time.perf_counter()
    images = sampler.draw(prompts, start, len(prompts))
    if images.device.type != "cpu":  # the device may still be working on what it returned
        torch.accelerator.synchronize(images.device)
    share.draw_seconds.append(time.perf_counter() - began)
    share.draw_counts.append(len(prompts))
    return images


def _problem(images: Tensor, prompts: Sequence[str], start: int) -> tuple[int, str] | None:
    """The first sample that cannot be scored, and why."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[:2] != (len(prompts), 3):
        return start, f"Expected images ({len(prompts)}, 3, H, W) from the sampler, got {shape}."
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        return start + place, (
            f"Sample {start + place} ({prompts[place]!r}) has pixels that are not finite: no score."
        )
    low, high = images.min().item(), images.max().item()
    if low < -_RANGE_TOLERANCE or high > 1.0 + _RANGE_TOLERANCE:
        return (
            start,
            f"Images must lie in [0, 1]; the sampler's reach from {low:.3g} to {high:.3g}.",
        )
    return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
