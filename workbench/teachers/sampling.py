"""Images of a teacher: guided Euler steps from noise that the caller gives."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.flow.solvers import euler, uniform_times
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.guidance import denoise


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
