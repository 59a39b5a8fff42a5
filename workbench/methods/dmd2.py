"""DMD2: distribution matching with a diffusion-GAN head and two time scales.

Source: "Improved Distribution Matching Distillation for Fast Image Synthesis" (arXiv 2405.14867):
several fake-score updates for each of the generator, a classifier on the fake score's features
that tells diffused real from diffused generated samples, and no regression.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from workbench.methods.base import Loss, Networks
from workbench.methods.batch import Batch
from workbench.methods.discrimination import bce, check_guidance, discriminating_loss
from workbench.methods.dmd import DMD, DMDConfig, dmd_loss
from workbench.methods.generator import GeneratorConfig
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.guidance import denoise

HEAD = "discriminator"


class DMD2Config(DMDConfig):
    """Settings of DMD2, which needs image-text pairs; weights as published for ImageNet."""

    name: Literal["dmd2"] = "dmd2"  # type: ignore[assignment]  # another method's
    fake_score_updates: int = Field(
        5, ge=1, description="updates of fake score and head before each of the generator"
    )
    gan_generator_weight: float = Field(
        3e-3, ge=0, description="of the adversarial term in the generator's loss"
    )
    gan_fake_weight: float = Field(
        1e-2, ge=0, description="of the classifier's loss beside the fake score's"
    )


class Discriminator(nn.Module):
    """A logit from last features: one hidden layer on each token, averaged over tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, tokens, width) to logits (B, 1)."""
        logits: Tensor = self.out(silu(self.hidden(features)).mean(dim=1))
        return logits


def _discriminator(network: VelocityNetwork) -> nn.Module:
    return Discriminator(network.feature_layer().in_features)


class DMD2(DMD):
    """Several updates of fake score and head, each on new samples, then one of the generator."""

    heads = MappingProxyType({HEAD: _discriminator})
    needs_pairs = True
    fake_score_roles = ("fake_score", HEAD)
    fake_score_stream = "fake_score0"
    config: DMD2Config

    def __init__(self, config: DMD2Config, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        check_guidance(config.guidance)

    def fake_score_phase(
        self, networks: Networks, batch: Batch, stream: str = "fake_score", share: bool = False
    ) -> Loss:
        """The fake score learns its own task, and with the head to tell real from generated."""
        at = self.generated(networks, batch, stream, share)
        return discriminating_loss(
            networks,
            batch,
            at,
            stream,
            self.config.guidance.train_fake,
            networks.heads[HEAD],
            self.config.gan_fake_weight,
        )

    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        """DMD + weight BCE(generated, 1), from one evaluation of the fake score."""
        x_g = self.rollout(networks, batch)
        at, guidance = self.diffuse(x_g, batch, "generator"), self.config.guidance
        inputs = (at.x_t, at.t, batch.cond, networks.uncond)
        with torch.no_grad():
            f_phi = denoise(networks.teacher, *inputs, guidance.eval_teacher).x0_hat
        psi = denoise(networks.fake_score, *inputs, guidance.eval_fake, with_features=True)
        f_psi = psi.x0_hat.detach()
        logits = networks.heads[HEAD](psi.tokens())
        importance = self.importance(logits.detach())
        loss = dmd_loss(x_g, f_phi, f_psi, at.t, self.weighting, importance)
        deceived = bce(logits, x_g[0].numel(), real=True).mean()
        metrics = {
            "train/generator_loss": loss.detach(),
            "train/adversarial_loss": deceived.detach(),
            **self.score_metrics(at.x_g, f_phi, f_psi),
        }
        if importance is not None:
            metrics["train/importance"] = importance.mean()
            # Near 0 all samples weigh the same, and the method is DMD2.
            metrics["train/log_ratio"] = logits.detach().abs().mean()
        total = loss + self.config.gan_generator_weight * deceived
        return Loss(self.config.loss_scale * total, metrics)

    def importance(self, logits: Tensor) -> Tensor | None:
        """A factor (B,) of each sample's score difference from its logits (B, 1); none here."""
        return None
