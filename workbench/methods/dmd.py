"""Distribution matching distillation: descend the KL divergence by the difference of two scores.

Sources: "One-step Diffusion with Distribution Matching Distillation" (DMD, arXiv 2311.18828),
whose gradient is that of variational score distillation (arXiv 2305.16213) and Diff-Instruct
(arXiv 2305.18455). Without DMD's regression on the teacher's own samples, which DMD2 dropped.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from workbench.flow import WEIGHTINGS, Weighting
from workbench.methods.base import Loss, Networks
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.sid import ScoreConfig, ScoreDistillation, WeightingName

FROM_STEP_20_TO_980 = (0.0735, 0.9923)
"""DMD's range of DDPM's 1000 steps, as rectified-flow times (2 % and 98 % of density "ddpm")."""


class DMDConfig(ScoreConfig):
    """Settings of data-free DMD; times as in the paper, uniform over DDPM's steps."""

    density: str = Field("ddpm", description="density of t in both losses")
    t_range: tuple[float, float] = Field(
        FROM_STEP_20_TO_980, description="truncation of the density of t"
    )
    weighting: WeightingName = Field(
        "sid", description="w(t) of the generator's gradient; sid: 1 / mean|x_g - f_phi|, DMD's own"
    )
    name: Literal["dmd"] = "dmd"


def dmd_loss(
    x_g: Tensor,
    f_phi: Tensor,
    f_psi: Tensor,
    t: Tensor,
    weighting: Weighting,
    importance: Tensor | None = None,
) -> Tensor:
    """Mean of ||x_g - sg(x_g - w(t) (f_psi - f_phi))||^2 / 2 summed over the latent; a scalar.

    Its gradient with respect to x_g is w(t) (f_psi - f_phi): DMD's equation 7 in x_0 terms.

    Args:
        x_g: generator samples (B, ...).
        f_phi, f_psi: x0_hat of teacher and fake score at x_t (B, ...), constants here.
        t: times (B,).
        importance: a further factor of each sample's gradient (B,).
    """
    with torch.no_grad():
        weight = weighting(t, x_g, f_phi)
        weight = weight if importance is None else weight * importance
        target = x_g - weight.view(-1, *[1] * (x_g.ndim - 1)) * (f_psi - f_phi)
    return 0.5 * (x_g - target).square().flatten(1).sum(1).mean()


class DMD(ScoreDistillation):
    """The generator descends the KL divergence, :func:`dmd_loss`."""

    def __init__(self, config: DMDConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.weighting = WEIGHTINGS[config.weighting]

    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        x_g = self.rollout(networks, batch)
        at = self.diffuse(x_g.detach(), batch, "generator")
        with torch.no_grad():
            f_phi, f_psi = self.both_scores(networks, batch, at)
        loss = dmd_loss(x_g, f_phi, f_psi, at.t, self.weighting)
        metrics = {
            "train/generator_loss": loss.detach(),
            **self.score_metrics(at.x_g, f_phi, f_psi),
        }
        return Loss(self.config.loss_scale * loss, metrics)
