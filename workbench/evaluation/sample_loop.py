"""Draws samples in batches, sharded over ranks, and extracts the features of each batch once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_cache import FeatureCache, Timing
from workbench.evaluation.feature_table import FeatureTable
from workbench.evaluation.grids import NotFiniteError
from workbench.training.parallel import Ranks

Draw = Callable[[list[str], int, int], Tensor]
ProgressCallback = Callable[[int, int], None]
"""(samples that are done, all samples)."""

Check = Callable[[Tensor, Sequence[str], int], tuple[int, str] | None]
"""(samples, their prompts, index of the first) -> the first that cannot be scored, and why."""

ALONE = Ranks(0, 1, torch.device("cpu"))
"""One process without others."""

_RANGE_TOLERANCE = 1e-3


def first_not_finite(samples: Tensor) -> int | None:
    """The place of the first of samples (B, ...) that holds NaN or an infinity."""
    finite = torch.isfinite(samples).flatten(1).all(dim=1)
    return None if finite.all() else int((~finite).nonzero()[0])


def check_images(images: Tensor, prompts: Sequence[str], start: int) -> tuple[int, str] | None:
    """Images (B, 3, H, W) in [0, 1]: the first that cannot be scored, and why."""
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[:2] != (len(prompts), 3):
        return start, f"Expected images ({len(prompts)}, 3, H, W) from the sampler, got {shape}."
    if (place := first_not_finite(images)) is not None:
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


@dataclass(frozen=True)
class Sampler:
    """What is scored.

    Attributes:
        draw: ``draw(prompts, start, count)`` returns images (count, 3, H, W) in [0, 1] of the
            global samples ``start .. start + count``. Take the noise by sample index from
            :attr:`Evaluator.noise`; then neither batch size nor ranks change a sample.
        steps: sampling steps.
        nfe: network evaluations per image, guidance's second pass counted; where they are known
            only by counting, a function that tells those of the last draw.
        prepare: called before each ``draw`` with its prompts; its time is not counted (text).
    """

    draw: Draw
    steps: int
    nfe: float | Callable[[], float]
    prepare: Callable[[list[str]], None] = lambda prompts: None


class ImageSink(Protocol):
    """Keeps the images themselves, beside what is seen in them."""

    def has(self, start: int, count: int) -> bool:
        """Whether every image of the samples ``start .. start + count`` is kept."""
        ...

    def keep(self, images: Tensor, prompts: Sequence[str], start: int) -> None:
        """Keep the images (B, 3, H, W) of the samples ``start .. start + B``.

        Raises:
            WorkbenchError: they cannot be written.
        """
        ...


@dataclass
class _Share:
    """What one rank has done. This is all that travels between ranks: where rows are, no rows."""

    table: FeatureTable = field(default_factory=FeatureTable)
    problem: tuple[int, WorkbenchError] | None = None
    timings: list[Timing] = field(default_factory=list)


@dataclass(frozen=True)
class SampleLoopResult:
    """Rows of every sample; the time that drawing one took on one device, and its evaluations.

    The rows are there as long as the cache that they are in.
    """

    table: FeatureTable
    ms_per_image: float
    nfe: float


@dataclass(frozen=True)
class SampleLoop:
    """Draws one sample for every prompt and extracts its features.

    Attributes:
        extractors: by the key under which their rows are filed.
        cache: holds the rows of finished batches for all ranks, and gives back those it has.
        show: told on rank 0 how far it is.
        check: whether samples can be scored at all.
        sink: keeps the images; a batch whose images it lacks is drawn, seen before or not.
    """

    extractors: Mapping[str, FeatureExtractor]
    prompts: Sequence[str]
    batch_size: int
    cache: FeatureCache
    show: ProgressCallback = lambda done, total: None
    check: Check = check_images
    sink: ImageSink | None = None

    def run(self, sampler: Sampler, ranks: Ranks = ALONE) -> SampleLoopResult:
        """Draw every sample and extract its features once, unless that was done before.

        The result is equal on all ranks.

        Batch b covers samples ``b * batch_size ...`` on any number of ranks. The b-th batch that is
        still to be drawn goes to rank ``b % world``, so that the images do not depend on sharding.
        When these do not divide by ranks, a rank left over draws one unused sample in the last
        round: a sharded network needs every rank in every call.

        Raises:
            NotFiniteError: an image is not finite, not in [0, 1] or of the wrong shape.
            WorkbenchError: an extractor cannot judge an image; its own error. All ranks raise the
                first sample's. One process alone stops there.
        """
        kept, timings = self.cache.load(self.extractors, self.prompts, callable(sampler.nfe))
        # Rank 0 decides, after all have looked: a file that a fast rank writes moves no batch.
        pending: list[int] = ranks.gather(self._pending(kept))[0]
        shares: list[_Share] = ranks.gather(self._share(sampler, ranks, kept, pending))
        problems = [share.problem for share in shares if share.problem is not None]
        if problems:
            raise min(problems, key=lambda problem: problem[0])[1]
        for share in shares:
            kept.merge(share.table)
        drawn = [share.timings for share in shares if share.timings] or [timings]
        return SampleLoopResult(kept, _ms_per_image(drawn), _nfe(sampler, drawn))

    def _pending(self, kept: FeatureTable) -> list[int]:
        """First samples of the batches that some extractor or the sink lacks a part of."""
        return [
            start
            for start in range(0, len(self.prompts), self.batch_size)
            if self._missing(kept, start)
            or (self.sink is not None and not self.sink.has(start, self._count(start)))
        ]

    def _missing(self, kept: FeatureTable, start: int) -> dict[str, FeatureExtractor]:
        return {
            key: extractor
            for key, extractor in self.extractors.items()
            if not kept.covers(key, start, self._count(start))
        }

    def _count(self, start: int) -> int:
        return min(self.batch_size, len(self.prompts) - start)

    @torch.no_grad()
    def _share(
        self, sampler: Sampler, ranks: Ranks, kept: FeatureTable, pending: Sequence[int]
    ) -> _Share:
        share = _Share()
        counts = [self._count(start) for start in pending]
        left = sum(counts)
        for first in range(0, len(pending), ranks.world):
            if ranks.rank == 0:
                self.show(len(self.prompts) - left, len(self.prompts))
                left -= sum(counts[first : first + ranks.world])
            if first + ranks.rank >= len(pending):
                sampler.prepare(list(self.prompts[:1]))
                sampler.draw(list(self.prompts[:1]), 0, 1)
                continue
            start = pending[first + ranks.rank]
            problem = self._batch(sampler, start, self._missing(kept, start), share)
            share.problem = share.problem or problem
            # One of several ranks goes on drawing after a problem: its peers may wait for it
            # inside a sharded network.
            if share.problem is not None and ranks.world == 1:
                return share
        if ranks.rank == 0:
            self.show(len(self.prompts), len(self.prompts))
        return share

    def _batch(
        self,
        sampler: Sampler,
        start: int,
        extractors: Mapping[str, FeatureExtractor],
        share: _Share,
    ) -> tuple[int, WorkbenchError] | None:
        prompts = list(self.prompts[start : start + self.batch_size])
        sampler.prepare(prompts)
        images = _timed_draw(sampler, prompts, start, share.timings)
        if share.problem is not None:
            return None
        unfit = self.check(images, prompts, start)
        if unfit is not None:
            return unfit[0], NotFiniteError(unfit[1])
        try:
            rows = {key: seen.extract(images, prompts) for key, seen in extractors.items()}
            share.table.merge(self.cache.save(start, prompts, rows, share.timings[-1]))
        except WorkbenchError as error:
            return start, error
        if self.sink is not None:
            self.sink.keep(images, prompts, start)
        return None


def _timed_draw(sampler: Sampler, prompts: list[str], start: int, timings: list[Timing]) -> Tensor:
    began = time.perf_counter()
    images = sampler.draw(prompts, start, len(prompts))
    if images.device.type != "cpu":  # the device may still be working on what it returned
        torch.accelerator.synchronize(images.device)
    seconds = time.perf_counter() - began
    timings.append(Timing(seconds, len(prompts), sampler.nfe() if callable(sampler.nfe) else None))
    return images


def _ms_per_image(ranks: Sequence[Sequence[Timing]]) -> float:
    """Without each rank's first (warm-up) batch, unless that is all there is."""
    timed = [
        timing for timings in ranks for timing in (timings[1:] if len(timings) > 1 else timings)
    ]
    return 1000.0 * sum(t.seconds for t in timed) / sum(t.images for t in timed)


def _nfe(sampler: Sampler, ranks: Sequence[Sequence[Timing]]) -> float:
    if not callable(sampler.nfe):
        return sampler.nfe
    timings = [timing for timings in ranks for timing in timings]
    evaluations = sum((timing.nfe or 0.0) * timing.images for timing in timings)
    return evaluations / sum(timing.images for timing in timings)
