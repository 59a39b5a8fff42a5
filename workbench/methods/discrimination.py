"""Discriminating real from generated samples, for any method with a fake score."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from workbench.flow import RectifiedFlow
from workbench.methods.base import Loss, Networks
from workbench.methods.batch import Batch
from workbench.methods.guidance import GuidanceConfig
from workbench.methods.sid import Diffused, fake_score_loss
from workbench.teachers.base import Conditioning
from workbench.teachers.guidance import denoise


def bce(logits: Tensor, elements: int, *, real: bool) -> Tensor:
    """Binary cross entropy per sample (B,), mean over logits (B, count), times ``elements``.

    Args:
        elements: of a latent, so that it weighs as the losses summed over the latent do.
        real: the label, 1 or 0.
    """
    return elements * softplus(-logits if real else logits).mean(dim=1)


def check_guidance(guidance: GuidanceConfig) -> None:
    """Check that a discriminator on the fake score is used as it is trained.

    Raises:
        ValueError: it is trained with prompts and used without them, or the other way round.
    """
    if (guidance.train_fake == 0) != (guidance.eval_fake == 0):
        raise ValueError(
            "method.guidance.train_fake and eval_fake must both be 0 or neither: the discriminator "
            "reads the fake score's features, with prompts or without "
            f"(got {guidance.train_fake:g} and {guidance.eval_fake:g})"
        )


def diffuse_real(latents: Tensor, at: Diffused, batch: Batch, stream: str) -> Diffused:
    """Real latents (B, ...) at the times of the generated ones, with noise of their own."""
    eps = batch.normal(f"{stream}/real_eps")
    return Diffused(latents, RectifiedFlow().interpolate(latents, eps, at.t), at.t, eps)


class OnBoth(NamedTuple):
    """The fake score's velocity of fake samples (B, ...); its last features of both kinds."""

    velocity: Tensor
    fake: Tensor
    real: Tensor


def fake_score_on_both(
    networks: Networks,
    at: Diffused,
    cond: Conditioning | None,
    at_real: Diffused,
    real_cond: Conditioning | None,
    cfg_scale: float,
) -> OnBoth:
    """One batched call without guidance; with guidance, real samples get an unguided call.

    At scale 0 both are evaluated without prompts: otherwise the prompt alone would give them away.
    Features have the shape (B, tokens, width).
    """
    network, uncond = networks.fake_score, networks.uncond
    if cfg_scale != 1.0:
        fake = denoise(network, at.x_t, at.t, cond, uncond, cfg_scale, with_features=True)
        alike = 0.0 if cfg_scale == 0.0 else 1.0
        real = denoise(
            network, at_real.x_t, at_real.t, real_cond, uncond, alike, with_features=True
        )
        return OnBoth(fake.velocity, fake.tokens(), real.tokens())
    x_t, t = torch.cat([at.x_t, at_real.x_t]), torch.cat([at.t, at_real.t])
    both = None
    if cond is not None and real_cond is not None:
        both = Conditioning.cat([cond, real_cond])
    answer, count = denoise(network, x_t, t, both, with_features=True), len(at.t)
    features = answer.tokens()
    return OnBoth(answer.velocity[:count], features[:count], features[count:])


def discriminating_loss(
    networks: Networks,
    batch: Batch,
    at: Diffused,
    stream: str,
    cfg_scale: float,
    logits: Callable[[Tensor], Tensor],
    weight: float,
) -> Loss:
    """The fake score's own loss + weight (BCE(real, 1) + BCE(fake, 0)), at the same times.

    Args:
        at: the generator's diffused samples, which the fake score learns from.
        stream: of the real samples and their noise.
        logits: last features (B, tokens, width) to logits (B, count).
    """
    real = batch.real(stream)
    at_real = diffuse_real(real.latents, at, batch, stream)
    psi = fake_score_on_both(networks, at, batch.cond, at_real, real.cond, cfg_scale)
    loss, elements = fake_score_loss(at.x_g, at.eps, psi.velocity), at.x_g[0].numel()
    on_real = bce(logits(psi.real), elements, real=True).mean()
    on_fake = bce(logits(psi.fake), elements, real=False).mean()
    return Loss(
        loss + weight * (on_real + on_fake),
        {
            "train/fake_score_loss": loss.detach(),
            "train/bce_real": on_real.detach() / elements,
            "train/bce_fake": on_fake.detach() / elements,
        },
    )
