"""Deterministic samplers of dx/dt = velocity(x, t), from noise (t = 1) to data (t = 0)."""

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
    for t, t_next in pairwise(_checked(times, x)):
        x = x + (t_next - t) * velocity(x, t.expand(x.shape[0]))
    return x


@torch.no_grad()
def heun(velocity: Velocity, x: Tensor, times: Tensor) -> Tensor:
    """Heun's method, order 2 (arXiv 2206.00364, algorithm 1): two evaluations a step.

    A last step to t = 0 is an Euler step, as there: networks are not trained at t = 0, and the
    order stays 2 because one step's error is second order. K such steps cost 2 K - 1
    evaluations. Arguments and errors are those of :func:`euler`.
    """
    ends_at_data = bool(times[-1] == 0)
    times = _checked(times, x)
    for step, (t, t_next) in enumerate(pairwise(times), start=1):
        slope = velocity(x, t.expand(x.shape[0]))
        if not (ends_at_data and step == len(times) - 1):
            ahead = x + (t_next - t) * slope
            slope = (slope + velocity(ahead, t_next.expand(x.shape[0]))) / 2
        x = x + (t_next - t) * slope
    return x


def _checked(times: Tensor, x: Tensor) -> Tensor:
    """The times on x's device, in its precision but at least float32."""
    values = times.tolist()  # floats have values also where tensors are fake
    steps_down = times.ndim == 1 and len(times) > 1 and all(a > b for a, b in pairwise(values))
    if not (steps_down and values[0] <= 1 and values[-1] >= 0):
        raise RequestError(f"Solver times must decrease within [0, 1], not {values}.")
    return times.to(x.device, torch.promote_types(x.dtype, torch.float32))
