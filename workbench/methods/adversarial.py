"""Adversarial SiD (SiD2a, arXiv 2509.25127): data-aided, with a discriminator of no parameters.

The fake score's last features, averaged over space, are the logits of as many small discriminators
as it has features. The fake score learns them beside its own task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor

from workbench.methods.base import Loss, Networks, Phase
from workbench.methods.batch import Batch
from workbench.methods.discrimination import bce, check_guidance, discriminating_loss
from workbench.methods.generator import GeneratorConfig
from workbench.methods.sid import SiD, SiDConfig
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import denoise


class AdversarialConfig(FrozenConfig):
    """Weights and warm-ups of the adversarial terms; the published ones."""

    sid_weight: float = Field(0.5, ge=0, description="of SiD in the generator's loss")
    generator_weight: float = Field(0.5, ge=0, description="of the adversarial term there")
    fake_weight: float = Field(
        0.5, ge=0, description="of each half, real and fake, in the fake score's loss"
    )
    generator_start_kimg: float = Field(20.0, ge=0, description="the generator waits so long")
    adversarial_start_kimg: float = Field(
        40.0, ge=0, description="until then the generator learns from SiD alone"
    )


class SiD2aConfig(SiDConfig):
    """Adversarial SiD, which continues a generator distilled without data."""

    name: Literal["sid2a"] = "sid2a"  # type: ignore[assignment]  # another method's
    adversarial: AdversarialConfig = AdversarialConfig()


def logits(features: Tensor) -> Tensor:
    """Features (B, tokens, width) to logits (B, width): their mean over space."""
    return features.mean(dim=1)


class AdversarialSiD(SiD):
    """SiD with a generative adversarial term on diffused samples of both kinds."""

    needs_pairs = True

    def __init__(self, config: SiD2aConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        check_guidance(config.guidance)
        self.adversarial = config.adversarial

    def phases(self, nimg: int) -> Sequence[Phase]:
        if nimg < 1000 * self.adversarial.generator_start_kimg:
            return self.fake_score_phases()
        if nimg < 1000 * self.adversarial.adversarial_start_kimg:
            return super().phases(nimg)
        adversarial = Phase(("generator",), self.adversarial_phase, frozen=self.fake_score_roles)
        return (*self.fake_score_phases(share=self.config.share_rollout), adversarial)

    def warmup_kimg(self) -> float:
        settings = self.adversarial
        return max(settings.generator_start_kimg, settings.adversarial_start_kimg)

    def fake_score_phase(
        self, networks: Networks, batch: Batch, stream: str = "fake_score", share: bool = False
    ) -> Loss:
        """The fake score learns its own task and to tell real from generated samples."""
        at = self.generated(networks, batch, stream, share)
        scale, weight = self.config.guidance.train_fake, self.adversarial.fake_weight
        return discriminating_loss(networks, batch, at, stream, scale, logits, weight)

    def adversarial_phase(self, networks: Networks, batch: Batch) -> Loss:
        """weight SiD + weight w(t) BCE(generated, 1), from one evaluation of the fake score."""
        x_g = self.rollout(networks, batch)
        at, guidance = self.diffuse(x_g, batch, "generator"), self.config.guidance
        inputs = (at.x_t, at.t, batch.cond, networks.uncond)
        f_phi = denoise(networks.teacher, *inputs, guidance.eval_teacher).x0_hat
        psi = denoise(networks.fake_score, *inputs, guidance.eval_fake, with_features=True)
        sid = self.sid(f_phi, psi.x0_hat, at)
        deceived = bce(logits(psi.tokens()), x_g[0].numel(), real=True)
        weighted = (self.weighting(at.t, x_g, f_phi) * deceived).mean()
        loss = (
            self.adversarial.sid_weight * sid.value + self.adversarial.generator_weight * weighted
        )
        metrics = {**sid.metrics, "train/adversarial_loss": weighted.detach()}
        return Loss(self.config.loss_scale * loss, metrics)
