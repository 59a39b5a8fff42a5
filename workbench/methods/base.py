"""What a distillation method is to the engine: phases, each training one role by one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.methods.generator import generate, get_noise_rule, step_times
from workbench.teachers.base import Conditioning, VelocityNetwork


class FrozenConfig(BaseModel):
    """Settings that are validated on creation and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GeneratorConfig(FrozenConfig):
    """The student's sampler: what it is trained with is what it is used with."""

    steps: int = Field(4, ge=1, le=1000, description="K, the number of generator steps")
    noise: str = Field("fresh", description="noise of each step: fresh, fixed or ddim")
    flow_shift: float = Field(1.0, gt=0, description="shift of the step times; 1 = none")

    @field_validator("noise")
    @classmethod
    def _known_noise(cls, name: str) -> str:
        get_noise_rule(name)
        return name


@dataclass(frozen=True)
class Batch:
    """Addresses of one micro-batch: which samples, with which prompts, up to which step.

    Random numbers are functions of (seed, stream, sample index), so a loss may ask for the same
    draw twice and get it twice, and no split into micro-batches or ranks changes them.
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


@dataclass(frozen=True)
class Networks:
    """The roles of a distillation. Methods that need a role read it here by its name."""

    teacher: VelocityNetwork
    trained: Mapping[str, VelocityNetwork]
    uncond: Conditioning | None

    @property
    def generator(self) -> VelocityNetwork:
        return self.trained["generator"]

    @property
    def fake_score(self) -> VelocityNetwork:
        return self.trained["fake_score"]


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise (mean over the micro-batch) and what to log beside it."""

    value: Tensor
    metrics: Mapping[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimiser step of an iteration: the role it trains and the loss it trains it on."""

    role: str
    loss: Callable[[Networks, Batch], Loss]


class Method(ABC):
    """A distillation method: a list of phases over named roles. The engine knows no method by name.

    Every trained role starts as a copy of the teacher; ``generator`` is always among them and
    is the one that is averaged (EMA), evaluated and exported.
    """

    roles: tuple[str, ...]

    def __init__(self, generator: GeneratorConfig) -> None:
        self.generator_config = generator
        self.times = step_times(generator.steps, generator.flow_shift)
        self.noise_rule = get_noise_rule(generator.noise)

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The optimiser steps of one iteration, in order."""

    def draw_samples(self, networks: Networks, batch: Batch, stream: str) -> Tensor:
        """x_g: the generator's output after ``batch.evaluations`` steps (B, *latent_shape)."""
        return generate(
            lambda x, t: networks.generator(x, t, batch.cond),
            lambda step: batch.normal(f"{stream}/step{step}"),
            self.times,
            self.noise_rule,
            batch.evaluations,
        )
