"""Solvers on Gaussian data: the velocity and the flow map are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import INTERPOLANTS, euler, rectified_velocity, uniform_times
from workbench.flow.solvers import Velocity

MEAN, STD = 0.7, 0.4


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """eps_hat - x0_hat for x_0 ~ N(MEAN, STD^2) on rectified flow."""
    t = t[:, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    centred = x - (1 - t) * MEAN
    return t / variance * centred - MEAN - (1 - t) * STD**2 / variance * centred


def flow_map(noise: Tensor) -> Tensor:
    """Where the exact flow takes x_1 = noise: the monotone map of N(0, 1) to the data."""
    return MEAN + STD * noise


def error(steps: int, shift: float = 1.0) -> float:
    noise = torch.linspace(-2, 2, 32, dtype=torch.float64).reshape(16, 2)
    found = euler(velocity, noise, uniform_times(steps, shift, torch.float64))
    return (found - flow_map(noise)).abs().max().item()


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_converges_at_first_order(shift: float) -> None:
    errors = [error(steps, shift) for steps in (64, 128, 256, 512)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1, abs=0.12)


def test_a_trigflow_network_samples_the_same_data() -> None:
    """Solving in rectified time through a wrapped TrigFlow network reaches the same flow map."""
    path = INTERPOLANTS["trigflow"]

    def network(x: Tensor, s: Tensor) -> Tensor:
        s = s[:, None]
        variance = s.cos() ** 2 * STD**2 + s.sin() ** 2
        centred = x - s.cos() * MEAN
        x0_hat = MEAN + s.cos() * STD**2 / variance * centred
        eps_hat = s.sin() / variance * centred
        return s.cos() * eps_hat - s.sin() * x0_hat

    noise = torch.randn(16, 2, dtype=torch.float64)
    times = uniform_times(32, dtype=torch.float64)
    wrapped = rectified_velocity(network, path, "trigflow")
    torch.testing.assert_close(euler(wrapped, noise, times), euler(velocity, noise, times))


@pytest.mark.parametrize("steps", [9, 10])
def test_evaluations_and_their_times(steps: int) -> None:
    """Of ten steps to t = 0, all or all but the last; the network is never asked at t = 0."""
    seen: list[float] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        seen.append(t[0].item())
        return velocity(x, t)

    euler(counted, torch.zeros(3, 2), uniform_times(10)[: steps + 1])
    assert len(seen) == steps
    assert min(seen) > 0


def test_the_way_may_end_before_the_data() -> None:
    """At t the flow map is (1 - t) MEAN + sqrt((1 - t)^2 STD^2 + t^2) noise."""
    noise = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(8, 2)
    times = torch.linspace(1, 0.5, 513, dtype=torch.float64)
    exact = 0.5 * MEAN + math.sqrt(0.25 * STD**2 + 0.25) * noise
    found = euler(velocity, noise, times)
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-3)


def test_euler_of_a_point_mass_is_exact_in_one_step() -> None:
    target = torch.tensor([[1.5, -2.0]])
    to_point: Velocity = lambda x, t: (x - target) / t[:, None]  # noqa: E731
    for steps in (1, 7):
        found = euler(to_point, torch.randn(1, 2), uniform_times(steps))
        torch.testing.assert_close(found, target)


def test_euler_is_the_schedulers_loop() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    times = uniform_times(7)
    scheduler.set_timesteps(sigmas=times[:-1].tolist())
    x = noise = torch.randn(4, 2)
    for sigma, timestep in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        x = scheduler.step(velocity(x, sigma.expand(4)), timestep, x, return_dict=False)[0]
    assert torch.equal(euler(velocity, noise, times), x)


def test_uniform_times() -> None:
    assert uniform_times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    torch.testing.assert_close(uniform_times(4, 3.0), torch.tensor([1, 0.9, 0.75, 0.5, 0]))
    with pytest.raises(RequestError, match="at least 1 step"):
        uniform_times(0)


@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0], [1.0, 0.5, 0.5], [1.5, 0.0], [1.0, -0.1]])
def test_times_that_do_not_descend_are_refused(times: list[float]) -> None:
    with pytest.raises(RequestError, match="must decrease"):
        euler(velocity, torch.zeros(1, 2), torch.tensor(times))
