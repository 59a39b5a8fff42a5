"""A network's value and its derivative along a direction, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad as untyped_forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from workbench.teachers.base import VelocityNetwork

forward_ad: Any = untyped_forward_ad

Field = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), time (B,)) -> a prediction (B, ...)."""


@torch.no_grad()
def with_tangent(
    network: VelocityNetwork, field: Field, at: tuple[Tensor, Tensor], along: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """field(x, t) and its Jacobian-vector product, both (B, ...) and without gradient.

    Args:
        network: the one that ``field`` evaluates once; the product counts as an evaluation more,
            which is about what it costs.
        at: x (B, ...) and time (B,).
        along: the direction in both, of the same shapes.
    """
    network.evaluations += len(at[1])
    # Fused attention has no forward-mode derivative.
    with sdpa_kernel(SDPBackend.MATH), forward_ad.dual_level():
        x, t = (
            forward_ad.make_dual(value, tangent) for value, tangent in zip(at, along, strict=True)
        )
        value, tangent = forward_ad.unpack_dual(field(x, t))
    return value, torch.zeros_like(value) if tangent is None else tangent
