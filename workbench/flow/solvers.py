"""Euler's method for dx/dt = velocity(x, t), from noise (t = 1) to data (t = 0)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow.shift import shift_time

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (B, ...), t (B,)) -> velocity (B, ...)."""


def uniform_times(
    steps: int, flow_shift: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """steps + 1 times from 1 to 0, evenly spaced before the shift.

    Raises:
        RequestError: fewer than one step, or a shift that is not positive.
    """
    if steps < 1:
        raise RequestError(f"A solver needs at least 1 step, not {steps}.")
    t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return shift_time(t, flow_shift).to(dtype)


@torch.no_grad()
def euler(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Euler's method, order 1 (DDIM on rectified flow): one evaluation a step.

    Args:
        velocity: dx/dt.
        x: the state at ``times[0]`` (B, ...).
        times: decreasing within [0, 1], usually down to 0, (steps + 1,).

    Raises:
        RequestError: times that do not decrease within [0, 1].
    """
    values = times.tolist()  # floats have values also where tensors are fake
    steps_down = times.ndim == 1 and len(times) > 1 and all(a > b for a, b in pairwise(values))
    if not (steps_down and values[0] <= 1 and values[-1] >= 0):
        raise RequestError(f"Solver times must decrease within [0, 1], not {values}.")
    times = times.to(x.device, torch.promote_types(x.dtype, torch.float32))
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * velocity(x, t.expand(x.shape[0]))
    return x
