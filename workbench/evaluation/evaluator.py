"""A protocol of evaluation: metrics, prompts and seed, with a fingerprint."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation.feature_cache import FeatureCache, scratch_cache
from workbench.evaluation.feature_table import FeatureTable
from workbench.evaluation.grids import NotFiniteError
from workbench.evaluation.metrics import Metric
from workbench.evaluation.sample_loop import (
    ALONE,
    Check,
    ImageSink,
    ProgressCallback,
    SampleLoop,
    Sampler,
    check_images,
)
from workbench.flow.noise import NoiseSource
from workbench.hashing import fingerprint
from workbench.metrics import metric_info
from workbench.training.parallel import Ranks

_VERSIONED = ("torch", "numpy", "scipy", "diffusers")
_FULL_PRECISION = "fp32"
"""What samples were drawn in before it was a setting: protocols of then do not name it."""
_ON_THE_WAY = ("pillow", "transformers")
"""Resizes what networks see, and encodes text; only single scores name them, so that runs that
were tracked before still compare."""


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


@dataclass(frozen=True)
class Evaluator:
    """A fixed protocol of evaluation: metrics and prompts. One sample for every prompt.

    The evaluation seed is no part of the protocol: scores at several seeds are repetitions, and
    compare. It is part of the fingerprints, which name one score.

    Attributes:
        seed: of the noise that samples are drawn from.
        batch_size: samples drawn at once; no part of the protocol.
        precision: of the networks that draw, "fp32" or "bf16"; whoever makes the sampler sees to
            it.

    Raises:
        RequestError: fewer prompts than a metric needs samples, prompts that one cannot judge by,
            no metric, two metrics of one name, or a batch size below 1.
    """

    metrics: Sequence[Metric]
    prompts: tuple[str, ...]
    seed: int = 0
    batch_size: int = 250
    check: Check = check_images
    precision: str = _FULL_PRECISION

    def __post_init__(self) -> None:
        names = [metric.name for metric in self.metrics]
        if not names or len(set(names)) < len(names):
            raise RequestError(f"An evaluation needs metrics of distinct names, not {names}.")
        for metric in self.metrics:
            fewest = metric_info(metric.name).minimum
            if self.samples < fewest.count:
                raise RequestError(
                    f"{metric.name} needs at least {fewest.count} samples, not {self.samples}: "
                    f"{fewest.why}."
                )
        if self.batch_size < 1:
            raise RequestError(f"The evaluation's batch size is {self.batch_size}; at least 1.")
        for metric in self.metrics:
            try:
                metric.extractor.check_prompts(self.prompts)
            except RequestError as error:
                raise RequestError(
                    f"{metric.name} cannot judge by these prompts: {error}"
                ) from error

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
        ranks: Ranks = ALONE,
        *,
        show: ProgressCallback = lambda done, total: None,
        scratch: Path | None = None,
    ) -> Scores:
        """Draw every sample once and score them; all ranks return the same scores.

        Memory does not grow with the samples: what extractors see of them goes through files.

        Args:
            sampler: what is scored.
            ranks: this process among its ranks.
            show: told on rank 0 how far it is.
            scratch: as :func:`scratch_cache`'s folder, for the length of the call.

        Raises:
            WorkbenchError: as :meth:`SampleLoop.run`, a score is not finite, or no room for files.
        """
        with scratch_cache(scratch, ranks) as cache:
            began = time.perf_counter()
            result = self.sample_loop(cache, show).run(sampler, ranks)
            return Scores(
                values=self.scores(result.table, ranks),
                fingerprint=self.fingerprint(sampler.steps),
                seconds=time.perf_counter() - began,
                ms_per_image=result.ms_per_image,
                nfe=result.nfe,
            )

    def sample_loop(
        self,
        cache: FeatureCache,
        show: ProgressCallback = lambda done, total: None,
        sink: ImageSink | None = None,
    ) -> SampleLoop:
        """The loop over samples: every extractor once, however many metrics it serves."""
        extractors = {m.extractor.key: m.extractor for m in self.metrics}
        return SampleLoop(extractors, self.prompts, self.batch_size, cache, show, self.check, sink)

    def scores(self, table: FeatureTable, ranks: Ranks = ALONE) -> dict[str, float]:
        """Score by metric name, computed by rank 0 for all.

        Raises:
            WorkbenchError: a sample is missing, or a score is not finite; on every rank.
        """
        values: dict[str, float] = {}
        problem: WorkbenchError | None = None
        if ranks.rank == 0:
            try:
                values = {metric.name: self._score(metric, table) for metric in self.metrics}
            except WorkbenchError as error:
                problem = error
        values, problem = ranks.gather((values, problem))[0]
        if problem is not None:
            raise problem
        return values

    def _score(self, metric: Metric, table: FeatureTable) -> float:
        value = metric.compute(table.rows(metric.extractor.key, self.samples))
        if not math.isfinite(value):
            raise NotFiniteError(f"{metric.name} is not finite ({value}): no score.")
        return value

    def fingerprint(self, steps: int) -> dict[str, Any]:
        """JSON-serialisable identity of the scores, with its own short hash as ``"id"``."""
        parts = {**self._ingredients, "steps": steps}
        return {**parts, "id": fingerprint(parts)}

    def fingerprint_of(self, metric: Metric, sampler: Mapping[str, object]) -> dict[str, Any]:
        """All that decides one score: the metric, the protocol and, under ``sampler``, the model.

        ``protocol`` is the id of all but the sampler and the seed: scores compare where it agrees.
        """
        made = {
            "metric": metric.name,
            **metric.ingredients,
            **{key: value for key, value in self._ingredients.items() if key != "metrics"},
            "versions": self.versions,
        }
        parts = {**made, "protocol": protocol_id(made), "sampler": dict(sampler)}
        return {**parts, "id": fingerprint(parts)}

    @cached_property
    def protocol(self) -> str:
        """As :func:`protocol_id`, of all metrics together."""
        return protocol_id(self._ingredients)

    @property
    def _ingredients(self) -> dict[str, Any]:
        own = {} if self.precision == _FULL_PRECISION else {"precision": self.precision}
        if self.precision == "bf16":
            own["weights"] = "bf16"  # earlier protocols rounded them at each product, in autocast
        if (matmul := torch.get_float32_matmul_precision()) != "highest":
            own["matmul"] = matmul
        return {
            "metrics": {metric.name: dict(metric.ingredients) for metric in self.metrics},
            "samples": self.samples,
            "prompts": self._prompts_hash,
            "seed": self.seed,
            "versions": {name: _version(name) for name in _VERSIONED},
            **own,
        }

    @property
    def versions(self) -> dict[str, str | None]:
        """Of all libraries that decide what samples and their scores are."""
        return {name: _version(name) for name in (*_VERSIONED, *_ON_THE_WAY)}

    @cached_property
    def _prompts_hash(self) -> str:
        return fingerprint(self.prompts)


def protocol_id(ingredients: Mapping[str, Any]) -> str:
    """Short hash of all that decides scores besides the sampler, its steps and its noise.

    Protocols named the seed once, and most runs then had seed 0: its place keeps the 0, so that
    what was measured before still compares.
    """
    return fingerprint({**ingredients, "seed": 0})


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
