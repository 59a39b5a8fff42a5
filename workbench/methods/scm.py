"""Continuous-time consistency distillation in TrigFlow (sCM).

Source: "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models"
(arXiv 2410.11081), algorithm 1 for distillation, with sigma_data = 1 since latents are scaled.
The student's velocity on rectified flow is read as TrigFlow's prediction F at the aligned angle s
(arXiv 2503.09641 does the same), where the consistency function
f = cos(s) x_s - sin(s) F is the x0_hat that every student here samples with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from workbench.flow import TrigFlow, expand_like, get_density
from workbench.methods.base import Loss, Method, Networks, Phase, rms
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.tangents import with_tangent
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import denoise

WEIGHT = "loss_weight"
_ANGLES = (1e-4, 1 - 1e-4)  # in float32 tan(s) has no sign at the noisy end


class SCMConfig(FrozenConfig):
    """Settings of sCM: the published proposal of t, tangent normalization and warm-up."""

    name: Literal["scm"] = "scm"
    density: str = Field("trigflow", description="density of t; published: TrigFlow's own")
    cfg_scale: float = Field(1.0, description="guidance of the teacher; 1 = off")
    tangent_constant: float = Field(0.1, gt=0, description="c in g / (rms(g) + c)")
    tangent_warmup_kimg: float = Field(
        1.28, ge=0, description="until then the unstable part of the tangent grows from 0 to 1"
    )

    @model_validator(mode="after")
    def _known_density(self) -> Self:
        get_density(self.density)
        return self


def trigflow_prediction(
    velocity: Callable[[Tensor, Tensor], Tensor], x_s: Tensor, s: Tensor
) -> Tensor:
    """F = d x_s / d s (B, ...) of a rectified-flow velocity (x_t, t) -> v.

    cos(s) eps_hat - sin(s) x0_hat, written without a division by sin(s).

    Args:
        x_s: cos(s) x_0 + sin(s) eps (B, ...).
        s: angles (B,).
    """
    c = TrigFlow().coefficients(s)
    wide = c.expand_like(x_s)
    total = wide.alpha + wide.sigma
    x_t = x_s / total
    return (wide.alpha - wide.sigma) * x_t + velocity(x_t, c.t) / total


def tangent(x_s: Tensor, s: Tensor, f: Tensor, df: Tensor, dx_ds: Tensor, ramp: float) -> Tensor:
    """cos(s) df/ds (B, ...), its unstable part scaled by r: algorithm 1 before normalization.

    -cos^2(s) (F - dx/ds) - r cos(s) sin(s) (x_s + dF/ds), where f = cos(s) x_s - sin(s) F.

    Args:
        f: F at (x_s, s), without gradient (B, ...).
        df: cos(s) sin(s) dF/ds along the teacher's path (B, ...).
        dx_ds: the teacher's F (B, ...).
        ramp: r in [0, 1].
    """
    c = TrigFlow().coefficients(s).expand_like(x_s)
    return -c.alpha.square() * (f - dx_ds) - ramp * (c.alpha * c.sigma * x_s + df)


def normalized(g: Tensor, constant: float) -> Tensor:
    """g / (rms(g) + c) for each sample (B, ...)."""
    return g / (expand_like(rms(g), g) + constant)


class LossWeight(nn.Module):
    """w(s), the learnt logarithm of the loss's weight, as in EDM2 (arXiv 2312.02696)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(1, 64), nn.Linear(64, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, s: Tensor) -> Tensor:
        """Angles (B,) to w (B, 1)."""
        weight: Tensor = self.out(silu(self.hidden(s.tan().log()[:, None] / 4)))
        return weight


class SCM(Method):
    """One generator step an iteration, on real latents diffused to a random angle."""

    roles = ("generator",)
    heads = MappingProxyType({WEIGHT: lambda network: LossWeight()})
    needs_pairs = True
    needs_prompts = False
    noise_types = ("fresh", "fixed")
    config: SCMConfig

    def __init__(self, config: SCMConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.density = get_density(config.density, _ANGLES)

    def phases(self, nimg: int) -> Sequence[Phase]:
        warmup = 1000 * self.config.tangent_warmup_kimg
        ramp = min(1.0, nimg / warmup) if warmup else 1.0
        return (Phase(("generator", WEIGHT), partial(self.consistency_phase, ramp=ramp)),)

    def warmup_kimg(self) -> float:
        return self.config.tangent_warmup_kimg

    def consistency_phase(self, networks: Networks, batch: Batch, ramp: float) -> Loss:
        """e^w(s) mean||F - sg(F) - g||^2 - w(s), mean over the batch."""
        real = batch.real("generator")
        t = self.density.quantile(batch.uniform("generator/t"))
        t = t.to(real.latents.device, real.latents.dtype, non_blocking=True)
        s = TrigFlow().from_rectified(t)
        x_s = TrigFlow().interpolate(real.latents, batch.normal("generator/eps"), s)
        generator = networks.generator

        def teach(x: Tensor, t: Tensor) -> Tensor:
            scale = self.config.cfg_scale
            return denoise(networks.teacher, x, t, real.cond, networks.uncond, scale).velocity

        def student(x: Tensor, s: Tensor) -> Tensor:
            return trigflow_prediction(lambda x, t: generator(x, t, real.cond), x, s)

        with torch.no_grad():
            dx_ds = trigflow_prediction(teach, x_s, s)
            speed = s.cos() * s.sin()
            direction = (expand_like(speed, x_s) * dx_ds, speed)
            f, df = with_tangent(generator, student, (x_s, s), direction)
            g = normalized(tangent(x_s, s, f, df, dx_ds, ramp), self.config.tangent_constant)
        error = (student(x_s, s) - f - g).square().flatten(1).mean(1)
        weight = networks.heads[WEIGHT](s)[:, 0]
        loss = (weight.exp() * error - weight).mean()
        return Loss(
            loss,
            {
                # The weighted objective has no sign and no scale to watch.
                "train/generator_loss": error.detach().mean(),
                "train/weighted": loss.detach(),
                "train/tangent": rms(df).mean(),
            },
        )
