"""The samples that a loss works on, and their random numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning


@dataclass(frozen=True)
class Pairs:
    """Image-text pairs: latents (B, *latent_shape), float32, and their prompts' encodings."""

    latents: Tensor
    cond: Conditioning | None

    def to(self, device: torch.device) -> Pairs:
        cond = self.cond.to(device) if self.cond else None
        return Pairs(self.latents.to(device, non_blocking=True), cond)


class PairSource(Protocol):
    """Endless pairs, addressed by stream and sample index."""

    def take(self, stream: str, start: int, count: int) -> Pairs: ...


@dataclass(frozen=True)
class Batch:
    """Addresses of one (micro-)batch: samples ``start .. start + count`` and their prompts.

    Random numbers are functions of (seed, stream, sample index), so a loss may ask for the same
    draw twice and get it twice, and no split into micro-batches or ranks changes them.
    ``evaluations`` is k, the number of generator steps to run; ``kept`` is what one phase leaves
    for the next one of the same draw.
    """

    start: int
    count: int
    cond: Conditioning | None
    evaluations: int
    noise: NoiseSource
    latent_shape: tuple[int, ...]
    device: torch.device
    pairs: PairSource | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)

    def real(self, stream: str) -> Pairs:
        """Image-text pairs, as many as the batch has samples.

        Raises:
            ValueError: the run has none; its configuration should have been refused.
        """
        if self.pairs is None:
            raise ValueError("This run has no image-text pairs")
        return self.pairs.take(stream, self.start, self.count).to(self.device)

    def normal(self, stream: str) -> Tensor:
        """Latent-shaped normal noise (B, *latent_shape), float32, made on the batch's device."""
        return self.noise.normal(stream, self.start, self.count, self.latent_shape, self.device)

    def steps(self, stream: str) -> Callable[[int], Tensor]:
        """Step index -> that step's noise (B, *latent_shape), for the few-step sampler."""
        return lambda step: self.normal(f"{stream}/step{step}")

    def uniform(self, stream: str) -> Tensor:
        """Uniforms in (0, 1), float64 CPU (B,)."""
        return self.noise.uniform(stream, self.start, self.count)
