"""A run's training state besides its tensors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from workbench.training.stability import Stability


@dataclass
class TrainingState:
    """A run's counts, sums since the last log, and best score, as its checkpoints hold them.

    Random numbers are addressed by ``nimg``.
    """

    nimg: int = 0
    skipped: int = 0
    skipped_in_a_row: dict[str, int] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    evaluations: int = 0
    best: float | None = None
    best_nimg: int | None = None
    stability: Stability = field(default_factory=Stability)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """The state that a checkpoint recorded; values that older ones lack get their defaults."""
        known = {key: record[key] for key in cls.__dataclass_fields__ if key in record}
        return cls(**{**known, "stability": Stability(**record.get("stability", {}))})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, values: Mapping[str, float]) -> None:
        """Count an applied update's metrics towards the next means."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def take_means(self) -> dict[str, float]:
        """Means of the metrics since the last time."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class Clock:
    """Throughput of iterations alone, evaluation and checkpoints excluded."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.images_per_s = 0.0
        self._began = 0.0
        self._counts = self._counts_read = (0, 0)

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, images: int, forward: int, backward: int) -> float:
        """Count an iteration, given all network evaluations so far; its seconds."""
        seconds = time.perf_counter() - self._began
        self.seconds += seconds
        self.images += images
        self.images_per_s = self.images / self.seconds
        self._counts = (forward, backward)
        return seconds

    def add(self, seconds: float) -> None:
        """Add time that was spent outside iterations, waiting for the GPU."""
        self.seconds += seconds
        self.images_per_s = self.images / max(self.seconds, 1e-9)

    def read(self) -> dict[str, float]:
        """Images a second and network evaluations an image since the last reading."""
        forward, backward = (
            (now - before) / max(1, self.images)
            for now, before in zip(self._counts, self._counts_read, strict=True)
        )
        values = {
            "perf/images_per_s": self.images_per_s,
            "perf/nfe_per_image": forward,
            "perf/backward_per_image": backward,
        }
        self._counts_read, self.images, self.seconds = self._counts, 0, 0.0
        return values
