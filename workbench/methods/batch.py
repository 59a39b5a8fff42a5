"""Which samples a loss or a sampler works on, and the random numbers that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning


@dataclass(frozen=True)
class Batch:
    """Addresses of one (micro-)batch: samples ``start .. start + count`` and their prompts.

    Random numbers are functions of (seed, stream, sample index), so a loss may ask for the same
    draw twice and get it twice, and no split into micro-batches or ranks changes them.
    ``evaluations`` is k, the number of generator steps to run.
    """

    start: int
    count: int
    cond: Conditioning | None
    evaluations: int
    noise: NoiseSource
    latent_shape: tuple[int, ...]
    device: torch.device

    def normal(self, stream: str) -> Tensor:
        """Latent-shaped normal noise (B, *latent_shape), float32."""
        drawn = self.noise.normal(stream, self.start, self.count, self.latent_shape)
        return drawn.to(self.device, non_blocking=True)

    def uniform(self, stream: str) -> Tensor:
        """Uniforms in (0, 1), float64 CPU (B,)."""
        return self.noise.uniform(stream, self.start, self.count)
