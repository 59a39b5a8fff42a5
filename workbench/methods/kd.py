"""Trajectory distillation: each student step is taught where the teacher's path leads.

Source: "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed"
(arXiv 2101.02388) for one step; for K steps each one is taught on the teacher's own states,
with the same grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.flow import euler, expand_like
from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.settings import FrozenConfig
from workbench.teachers.base import Conditioning
from workbench.teachers.guidance import denoise


class KDConfig(FrozenConfig):
    """Settings of trajectory distillation."""

    name: Literal["kd"] = "kd"
    substeps: int = Field(8, ge=1, description="the teacher's Euler steps in one of the student's")
    cfg_scale: float = Field(1.0, description="guidance of the teacher; 1 = off")


class KD(Method):
    """One generator step an iteration: a regression of all its K steps, without data."""

    roles = ("generator",)
    noise_types = ("ddim",)
    partial_steps = False
    config: KDConfig

    def __init__(self, config: KDConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.times = [*self.sampler.times, 0.0]
        self.between = [
            torch.linspace(start, end, config.substeps + 1) for start, end in pairwise(self.times)
        ]

    def phases(self, nimg: int) -> Sequence[Phase]:
        return (Phase(("generator",), self.trajectory_phase),)

    def trajectory_phase(self, networks: Networks, batch: Batch) -> Loss:
        """Mean over steps and batch of ||(x_i - x_{i+1}) - (t_i - t_{i+1}) v_G(x_i, t_i)||^2.

        All steps are learnt from one trajectory of the teacher, which costs most; K samples an
        image pass the student at once.
        """
        states = self._trajectory(networks, batch)
        count, steps = batch.count, len(self.times) - 1
        x = torch.cat(states[:-1])
        moved = x - torch.cat(states[1:])
        t = torch.tensor(self.times).to(x).repeat_interleave(count)
        at, span = t[: steps * count], t[: steps * count] - t[count:]
        cond = None if batch.cond is None else Conditioning.cat([batch.cond] * steps)
        velocity: Tensor = networks.generator(x, at, cond)
        error = (moved - expand_like(span, x) * velocity).square().flatten(1).sum(1).mean()
        return Loss(error, {"train/generator_loss": error.detach()})

    def _trajectory(self, networks: Networks, batch: Batch) -> list[Tensor]:
        """The teacher's states at the student's times, from noise to data, each (B, ...)."""
        scale = self.config.cfg_scale

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return denoise(networks.teacher, x, t, batch.cond, networks.uncond, scale).velocity

        states = [batch.normal("generator/step0")]
        for between in self.between:
            states.append(euler(velocity, states[-1], between))
        return states
