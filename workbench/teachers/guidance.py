"""A denoiser's answer, with classifier-free guidance: the one place where it happens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import x0_from_velocity
from workbench.teachers.base import Conditioning, VelocityNetwork


@dataclass(frozen=True)
class Denoised:
    """What a network says of x_t (B, ...) at times t (B,).

    Attributes:
        velocity: eps - x_0 (B, ...), float32.
        features: the last ones (B, tokens, width), of the conditional half, or of the unconditional
            one where scale 0 evaluates only that; None unless asked for.
    """

    x_t: Tensor
    t: Tensor
    velocity: Tensor
    features: Tensor | None = None

    @property
    def x0_hat(self) -> Tensor:
        """E[x_0 | x_t] as the network has it, x_t - t v (B, ...)."""
        return x0_from_velocity(self.x_t, self.t, self.velocity)

    def tokens(self) -> Tensor:
        """The features, which were asked for."""
        assert self.features is not None, "denoise was called without with_features"
        return self.features


def denoise(
    network: VelocityNetwork,
    x_t: Tensor,
    t: Tensor,
    cond: Conditioning | None,
    uncond: Conditioning | None = None,
    cfg_scale: float = 1.0,
    *,
    with_features: bool = False,
) -> Denoised:
    """v_uncond + k (v_cond - v_uncond), Ho & Salimans 2022, as one batched call.

    Scale 1 evaluates the conditional network alone, scale 0 the unconditional one alone; any
    other scale evaluates both in one batch in the order [unconditional, conditional], which is
    the order of diffusers' pipelines.

    Args:
        x_t: noisy latents (B, ...).
        t: times (B,).
        cond: conditioning of B rows, or None for an unprompted network.
        uncond: conditioning of the empty prompt, one row.

    Raises:
        RequestError: the scale needs an unconditional encoding and there is none.
    """
    both = cfg_scale not in (0.0, 1.0)
    inputs = (x_t, t, cond)
    if cfg_scale != 1.0:
        if uncond is None or cond is None:
            raise RequestError(
                f"Guidance scale {cfg_scale:g} needs an unconditional encoding, and this teacher "
                "has none. Use scale 1 (off)."
            )
        empty = uncond.expand(len(x_t))
        inputs = (x_t, t, empty)
        if both:
            joined = Conditioning.cat([empty, cond])
            inputs = (torch.cat([x_t, x_t]), torch.cat([t, t]), joined)
    answer = network(*inputs, with_features)
    velocity, features = answer if with_features else (answer, None)
    if both:
        v_uncond, v_cond = velocity.chunk(2)
        velocity = v_uncond + cfg_scale * (v_cond - v_uncond)
        features = None if features is None else features[len(x_t) :]
    return Denoised(x_t, t, velocity, features)
