"""How fast a run trains, and at how many network evaluations an image."""

from __future__ import annotations

import time


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
