"""Score identity Distillation for flow-matching teachers (arXiv 2509.25127, data-free)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from workbench.flow import get_weighting
from workbench.flow.weightings import Weighting
from workbench.methods.base import Loss, Networks
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.score import (
    Diffused,
    ScoreConfig,
    ScoreDistillation,
    WeightingName,
)


class SiDSettings(ScoreConfig):
    """Settings of SiD, with data and without."""

    sid_alpha: float = Field(1.0, description="a in the generator's loss; 1.2 for EDM in SiD")
    weighting: WeightingName = Field("1-t", description="w(t) of the generator's loss")


class SiDConfig(SiDSettings):
    """Data-free SiD."""

    name: Literal["sid"] = "sid"


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


class SiD(ScoreDistillation):
    """The generator descends SiD's loss, :func:`sid_loss`."""

    config: SiDSettings

    def __init__(self, config: SiDSettings, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.weighting = get_weighting(config.weighting)

    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        x_g = self.sampler.sample(networks.generator, batch, "generator")
        at = self.diffuse(x_g, batch, "generator")
        f_phi = self.teacher_estimate(networks, batch, at)
        loss = self.sid(f_phi, self.fake_estimate(networks, batch, at), at)
        return Loss(self.config.loss_scale * loss.value, loss.metrics)

    def sid(self, f_phi: Tensor, f_psi: Tensor, at: Diffused) -> Loss:
        """The unscaled loss of the generator from both estimates (B, ...)."""
        value = sid_loss(at.x_g, f_phi, f_psi, at.t, self.weighting, self.config.sid_alpha)
        return Loss(
            value,
            {
                "train/generator_loss": value.detach(),
                **self.score_metrics(at.x_g, f_phi, f_psi),
            },
        )
