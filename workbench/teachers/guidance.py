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
    velocity, _ = _guided(network, (x_t, t), cond, uncond, cfg_scale, with_features=False)
    return velocity


def guided_with_features(
    network: VelocityNetwork,
    x_t: Tensor,
    t: Tensor,
    cond: Conditioning | None,
    uncond: Conditioning | None,
    cfg_scale: float,
) -> tuple[Tensor, Tensor]:
    """The same, and the network's last features (B, tokens, width) in the same call.

    Those of the conditional half; of the unconditional one where scale 0 evaluates only that.
    """
    velocity, features = _guided(network, (x_t, t), cond, uncond, cfg_scale, with_features=True)
    assert features is not None
    return velocity, features


def _guided(
    network: VelocityNetwork,
    at: tuple[Tensor, Tensor],
    cond: Conditioning | None,
    uncond: Conditioning | None,
    cfg_scale: float,
    *,
    with_features: bool,
) -> tuple[Tensor, Tensor | None]:
    x_t, t = at
    if cfg_scale == 1.0:
        return _call(network, x_t, t, cond, with_features)
    if uncond is None or cond is None:
        raise RequestError(
            f"Guidance scale {cfg_scale:g} needs an unconditional encoding, and this teacher has "
            "none. Use scale 1 (off)."
        )
    batch = x_t.shape[0]
    empty = uncond.expand(batch)
    if cfg_scale == 0.0:
        return _call(network, x_t, t, empty, with_features)
    both = Conditioning.cat([empty, cond])
    velocities, features = _call(
        network, torch.cat([x_t, x_t]), torch.cat([t, t]), both, with_features
    )
    v_uncond, v_cond = velocities.chunk(2)
    velocity = v_uncond + cfg_scale * (v_cond - v_uncond)
    return velocity, None if features is None else features[batch:]


def _call(
    network: VelocityNetwork,
    x_t: Tensor,
    t: Tensor,
    cond: Conditioning | None,
    with_features: bool,
) -> tuple[Tensor, Tensor | None]:
    if not with_features:
        return network(x_t, t, cond), None
    velocity, features = network(x_t, t, cond, True)
    return velocity, features
