"""Classifier-free guidance: the one place where it happens."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers.base import Conditioning, VelocityNetwork


def guided_velocity(
    network: VelocityNetwork,
    x_t: Tensor,
    t: Tensor,
    cond: Conditioning | None,
    uncond: Conditioning | None,
    cfg_scale: float,
) -> Tensor:
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
    if cfg_scale == 1.0:
        return _call(network, x_t, t, cond)
    if uncond is None or cond is None:
        raise RequestError(
            f"Guidance scale {cfg_scale:g} needs an unconditional encoding, and this teacher has "
            "none. Use scale 1 (off)."
        )
    batch = x_t.shape[0]
    empty = uncond.expand(batch)
    if cfg_scale == 0.0:
        return _call(network, x_t, t, empty)
    both = Conditioning.cat([empty, cond])
    v_uncond, v_cond = _call(network, torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
    return v_uncond + cfg_scale * (v_cond - v_uncond)


def _call(network: VelocityNetwork, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
    velocity: Tensor = network(x_t, t, cond)
    return velocity
