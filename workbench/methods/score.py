"""What all score distillation shares: a fake score that follows the generator.

Sources: arXiv 2404.04057 (SiD), arXiv 2311.18828 (DMD); for flow matching arXiv 2509.25127.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from workbench.flow import expand_like, get_density, x0_from_velocity
from workbench.methods.base import Loss, Method, Networks
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import guided_velocity


class GuidanceConfig(FrozenConfig):
    """Classifier-free guidance scales; 1 = off, 0 = unconditional."""

    train_fake: float = Field(1.0, description="scale while the fake score is trained")
    eval_fake: float = Field(1.0, description="scale of the fake score in the generator's loss")
    eval_teacher: float = Field(1.0, description="scale of the teacher in the generator's loss")


class ScoreConfig(FrozenConfig):
    """Settings of every score distillation: where the two scores meet the samples."""

    density: str = Field("sid", description="density of t in both losses")
    t_range: tuple[float, float] = Field((0.0, 1.0), description="truncation of the density of t")
    guidance: GuidanceConfig = GuidanceConfig()
    loss_scale: float = Field(100.0, gt=0, description="factor of the generator's loss")

    @model_validator(mode="after")
    def _known_density(self) -> Self:
        get_density(self.density, self.t_range)
        return self


class Diffused(NamedTuple):
    """Samples x_g (B, ...) at noise level t (B,): x_t = (1 - t) x_g + t eps."""

    x_g: Tensor
    x_t: Tensor
    t: Tensor
    eps: Tensor


def fake_score_loss(x_g: Tensor, eps: Tensor, velocity: Tensor) -> Tensor:
    """Mean over the batch of ||(eps - x_g) - v_psi||^2 summed over the latent; a scalar.

    Args:
        x_g: detached generator samples (B, ...).
        eps: the noise that made x_t (B, ...).
        velocity: v_psi(x_t, t, c) (B, ...).
    """
    return (eps - x_g - velocity).square().flatten(1).sum(1).mean()


class ScoreDistillation(Method):
    """A method whose generator is told by two scores: the teacher's, and one of its own samples."""

    roles = ("fake_score", "generator")

    def __init__(self, config: ScoreConfig, generator: GeneratorConfig) -> None:
        super().__init__(generator)
        self.score_config = config
        self.density = get_density(config.density, config.t_range)

    def diffuse(self, x_g: Tensor, batch: Batch, stream: str) -> Diffused:
        """Samples at times from the density, with fresh noise."""
        t = self.density.sample_from(batch.uniform(f"{stream}/t")).to(x_g)
        eps = batch.normal(f"{stream}/eps")
        return Diffused(x_g, torch.lerp(x_g, eps, expand_like(t, x_g)), t, eps)

    def generated(self, networks: Networks, batch: Batch, stream: str) -> Diffused:
        """Diffused samples of the generator, without gradient."""
        with torch.no_grad():
            x_g = self.sampler.sample(networks.generator, batch, stream)
        return self.diffuse(x_g, batch, stream)

    def fake_score_phase(
        self, networks: Networks, batch: Batch, stream: str = "fake_score"
    ) -> Loss:
        """The fake score learns the generator's velocity; see :func:`fake_score_loss`."""
        x_g, x_t, t, eps = self.generated(networks, batch, stream)
        velocity = guided_velocity(
            networks.fake_score,
            x_t,
            t,
            batch.cond,
            networks.uncond,
            self.score_config.guidance.train_fake,
        )
        loss = fake_score_loss(x_g, eps, velocity)
        return Loss(loss, {"train/fake_score_loss": loss.detach()})

    def teacher_estimate(self, networks: Networks, batch: Batch, at: Diffused) -> Tensor:
        """The teacher's x0_hat (B, ...) at x_t, guided by its scale."""
        scale = self.score_config.guidance.eval_teacher
        velocity = guided_velocity(
            networks.teacher, at.x_t, at.t, batch.cond, networks.uncond, scale
        )
        return x0_from_velocity(at.x_t, at.t, velocity)

    def fake_estimate(self, networks: Networks, batch: Batch, at: Diffused) -> Tensor:
        """The fake score's x0_hat (B, ...) at x_t, guided by its scale."""
        scale = self.score_config.guidance.eval_fake
        velocity = guided_velocity(
            networks.fake_score, at.x_t, at.t, batch.cond, networks.uncond, scale
        )
        return x0_from_velocity(at.x_t, at.t, velocity)


def score_gap(f_phi: Tensor, f_psi: Tensor) -> Tensor:
    """Root mean square of f_phi - f_psi over a sample, mean over the batch; a scalar to log."""
    return (f_phi - f_psi).detach().square().flatten(1).mean(1).sqrt().mean()
