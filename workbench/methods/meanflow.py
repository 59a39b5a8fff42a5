"""MeanFlow distillation: learn the average velocity over each of the student's steps.

Source: "Mean Flows for One-step Generative Modeling" (arXiv 2505.13447), with the teacher's
velocity in place of the conditional one. A network of unchanged architecture has no second time
input, so r is a function of t here: the next time of the student's own grid. Within a step r is
constant, and the MeanFlow identity u = v - (t - r) du/dt holds as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.flow import LogitNormal, RectifiedFlow, expand_like
from workbench.methods.base import Loss, Method, Networks, Phase, rms
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.tangents import with_tangent
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import denoise


class MeanFlowConfig(FrozenConfig):
    """Settings of MeanFlow: the published density of t and adaptive weight."""

    name: Literal["meanflow"] = "meanflow"
    t_mean: float = Field(-0.4, description="of logit t")
    t_std: float = Field(1.0, gt=0, description="of logit t")
    margin: float = Field(
        0.2, ge=0, lt=1, description="how far into the step above it a step reaches, its share"
    )
    cfg_scale: float = Field(1.0, description="guidance of the teacher; 1 = off")
    weight_power: float = Field(1.0, ge=0, description="p in 1 / (error^2 + c)^p; 0 = plain")
    weight_constant: float = Field(1e-3, gt=0, description="c there")


def next_time(t: Tensor, grid: Tensor, margin: float = 0.0) -> Tensor:
    """r(t): the largest of the grid's times below t, else 0, (B,).

    Args:
        t: in (0, grid[0]] (B,).
        grid: decreasing, positive (K,).
        margin: r jumps not at the grid's times but so far into the interval above them, a share of
            it. The student is used at these times, and a smooth network's time derivative is wrong
            where its target jumps.
    """
    rising = grid.flip(0).to(t)
    jumps = torch.lerp(rising[:-1], rising[1:], margin)
    times = torch.cat([rising.new_zeros(1), rising[:-1]])
    return times[torch.searchsorted(jumps, t)]


def adaptive_weight(squared: Tensor, power: float, constant: float) -> Tensor:
    """1 / (squared + c)^p, a constant to the gradient (B,)."""
    return 1 / (squared.detach() + constant) ** power


class MeanFlow(Method):
    """One generator step an iteration, on real latents diffused to a random time."""

    roles = ("generator",)
    needs_pairs = True
    needs_prompts = False
    noise_types = ("ddim",)
    partial_steps = False
    config: MeanFlowConfig

    def __init__(self, config: MeanFlowConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.density = LogitNormal("meanflow", config.t_mean, config.t_std)

    def phases(self, nimg: int) -> Sequence[Phase]:
        return (Phase(("generator",), self.average_velocity_phase),)

    def average_velocity_phase(self, networks: Networks, batch: Batch) -> Loss:
        """weight ||u - sg(v - (t - r) du/dt)||^2 summed over the latent, mean over the batch."""
        real = batch.real("generator")
        t = self.density.quantile(batch.uniform("generator/t"))
        t = t.to(real.latents.device, real.latents.dtype, non_blocking=True)
        r = next_time(t, t.new_tensor(self.sampler.times), self.config.margin)
        x_t = RectifiedFlow().interpolate(real.latents, batch.normal("generator/eps"), t)
        generator, scale = networks.generator, self.config.cfg_scale

        def average(x: Tensor, t: Tensor) -> Tensor:
            velocity: Tensor = generator(x, t, real.cond)
            return velocity

        with torch.no_grad():
            teacher = denoise(networks.teacher, x_t, t, real.cond, networks.uncond, scale)
            velocity = teacher.velocity
            _, du_dt = with_tangent(generator, average, (x_t, t), (velocity, torch.ones_like(t)))
            target = velocity - expand_like(t - r, x_t) * du_dt
        squared = (average(x_t, t) - target).square().flatten(1).sum(1)
        weight = adaptive_weight(squared, self.config.weight_power, self.config.weight_constant)
        return Loss(
            (weight * squared).mean(),
            {
                "train/generator_loss": squared.detach().mean(),
                "train/tangent": rms(du_dt).mean(),
            },
        )
