"""Denoising with classifier-free guidance, and a teacher's samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import x0_from_velocity
from workbench.flow.solvers import euler, uniform_times
from workbench.teachers.base import Conditioning, VelocityNetwork


@dataclass(frozen=True)
class Denoised:
    """A network's estimate at x_t (B, ...) and times t (B,).

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
        """The network's estimate of E[x_0 | x_t], which is x_t - t v (B, ...)."""
        return x0_from_velocity(self.x_t, self.t, self.velocity)

    def tokens(self) -> Tensor:
        """The features; ``denoise`` must have been called with ``with_features``."""
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


def describe_euler(cfg_scale: float, flow_shift: float) -> str:
    """How :func:`sample_teacher` samples, for tables: ``Euler, shift 1, guidance 1``."""
    return f"Euler, shift {flow_shift:g}, guidance {cfg_scale:g}"


@torch.no_grad()
def sample_teacher(
    network: VelocityNetwork,
    cond: Conditioning | None,
    uncond: Conditioning | None,
    noise: Tensor,
    steps: int,
    cfg_scale: float = 1.0,
    flow_shift: float = 1.0,
) -> Tensor:
    """Latents (B, ...) by ``steps`` Euler steps from t = 1 to 0, evenly spaced before the shift.

    Args:
        cond: conditioning of B rows, or None.
        uncond: conditioning of the empty prompt, one row; only guidance needs it.
        noise: standard normal (B, ...).
        cfg_scale: guidance; 1 = off, one evaluation a step; 0 = unconditional, likewise.

    Raises:
        RequestError: guidance without an unconditional encoding.
    """

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        return denoise(network, x_t, t, cond, uncond, cfg_scale).velocity

    return euler(velocity, noise, uniform_times(steps, flow_shift))
