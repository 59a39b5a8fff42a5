"""Score identity Distillation for flow-matching teachers (arXiv 2509.25127, data-free)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from workbench.flow import expand_like, get_density, get_weighting, x0_from_velocity
from workbench.flow.weightings import Weighting
from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import guided_velocity


class GuidanceConfig(FrozenConfig):
    """Classifier-free guidance scales; 1 = off, 0 = unconditional."""

    train_fake: float = Field(1.0, description="scale while the fake score is trained")
    eval_fake: float = Field(1.0, description="scale of the fake score in the generator's loss")
    eval_teacher: float = Field(1.0, description="scale of the teacher in the generator's loss")


class SiDConfig(FrozenConfig):
    """Settings of data-free SiD."""

    name: Literal["sid"] = "sid"
    sid_alpha: float = Field(1.0, description="a in the generator's loss; 1.2 for EDM in SiD")
    weighting: str = Field("1-t", description="w(t) of the generator's loss")
    density: str = Field("sid", description="density of t in both losses")
    t_range: tuple[float, float] = Field((0.0, 1.0), description="truncation of the density of t")
    guidance: GuidanceConfig = GuidanceConfig()
    loss_scale: float = Field(100.0, gt=0, description="factor of the generator's loss")

    @field_validator("weighting")
    @classmethod
    def _known_weighting(cls, name: str) -> str:
        get_weighting(name)
        return name

    @model_validator(mode="after")
    def _known_density(self) -> SiDConfig:
        get_density(self.density, self.t_range)
        return self


def fake_score_loss(x_g: Tensor, eps: Tensor, velocity: Tensor) -> Tensor:
    """Mean over the batch of ||(eps - x_g) - v_psi||^2 summed over the latent; a scalar.

    Args:
        x_g: detached generator samples (B, ...).
        eps: the noise that made x_t (B, ...).
        velocity: v_psi(x_t, t, c) (B, ...).
    """
    return (eps - x_g - velocity).square().flatten(1).sum(1).mean()


def sid_loss(
    x_g: Tensor, f_phi: Tensor, f_psi: Tensor, t: Tensor, weighting: Weighting, sid_alpha: float
) -> Tensor:
    """Mean of w(t) sum[(f_phi - f_psi) ((f_phi - x_g) - a (f_phi - f_psi))]; a scalar.

    The loss of SiD (arXiv 2404.04057) in x_0 terms, as arXiv 2509.25127 uses it. Nothing but w is
    detached: the gradient reaches the generator through x_g and through the input of both
    networks.

    Args:
        x_g: generator samples (B, ...).
        f_phi: the teacher's x0_hat at x_t (B, ...).
        f_psi: the fake score's x0_hat at x_t (B, ...).
        t: times (B,).
    """
    gap = f_phi - f_psi
    per_sample = (gap * ((f_phi - x_g) - sid_alpha * gap)).flatten(1).sum(1)
    return (weighting(t, x_g, f_phi) * per_sample).mean()


class SiD(Method):
    """Each iteration: one fake-score step, then one generator step, on newly drawn samples."""

    roles = ("fake_score", "generator")

    def __init__(self, config: SiDConfig, generator: GeneratorConfig) -> None:
        super().__init__(generator)
        self.config = config
        self.density = get_density(config.density, config.t_range)
        self.weighting = get_weighting(config.weighting)

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("fake_score", self.fake_score_phase),
            Phase("generator", self.generator_phase),
        )

    def fake_score_phase(self, networks: Networks, batch: Batch) -> Loss:
        with torch.no_grad():
            x_g = self.sampler.sample(networks.generator, batch, "fake_score")
        x_t, t, eps = self._diffuse(x_g, batch, "fake_score")
        velocity = guided_velocity(
            networks.fake_score,
            x_t,
            t,
            batch.cond,
            networks.uncond,
            self.config.guidance.train_fake,
        )
        loss = fake_score_loss(x_g, eps, velocity)
        return Loss(loss, {"train/fake_score_loss": loss.detach()})

    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        x_g = self.sampler.sample(networks.generator, batch, "generator")
        x_t, t, _ = self._diffuse(x_g, batch, "generator")
        scales = self.config.guidance
        v_phi = guided_velocity(
            networks.teacher, x_t, t, batch.cond, networks.uncond, scales.eval_teacher
        )
        v_psi = guided_velocity(
            networks.fake_score, x_t, t, batch.cond, networks.uncond, scales.eval_fake
        )
        f_phi, f_psi = x0_from_velocity(x_t, t, v_phi), x0_from_velocity(x_t, t, v_psi)
        loss = sid_loss(x_g, f_phi, f_psi, t, self.weighting, self.config.sid_alpha)
        gap = (f_phi - f_psi).detach().square().flatten(1).mean(1).sqrt().mean()
        metrics = {"train/generator_loss": loss.detach(), "train/score_gap": gap}
        return Loss(self.config.loss_scale * loss, metrics)

    def _diffuse(self, x_g: Tensor, batch: Batch, stream: str) -> tuple[Tensor, Tensor, Tensor]:
        t = self.density.sample_from(batch.uniform(f"{stream}/t"))
        t = t.to(x_g)
        eps = batch.normal(f"{stream}/eps")
        return torch.lerp(x_g, eps, expand_like(t, x_g)), t, eps
