"""Solvers on Gaussian data: the velocity and the flow map are known in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import euler, get_interpolant, heun, rectified_velocity, uniform_times
from workbench.flow.solvers import Velocity

MEAN, STD = 0.7, 0.4
SOLVERS = {"euler": (euler, 1), "heun": (heun, 2)}


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """eps_hat - x0_hat for x_0 ~ N(MEAN, STD^2) on rectified flow."""
    t = t[:, None]
    variance = (1 - t) ** 2 * STD**2 + t**2
    centred = x - (1 - t) * MEAN
    return t / variance * centred - MEAN - (1 - t) * STD**2 / variance * centred


def flow_map(noise: Tensor) -> Tensor:
    """Where the exact flow takes x_1 = noise: the monotone map of N(0, 1) to the data."""
    return MEAN + STD * noise


def error(solver: str, steps: int, shift: float = 1.0) -> float:
    noise = torch.linspace(-2, 2, 32, dtype=torch.float64).reshape(16, 2)
    found = SOLVERS[solver][0](velocity, noise, uniform_times(steps, shift, torch.float64))
    return (found - flow_map(noise)).abs().max().item()


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_converge_at_their_order(solver: str, shift: float) -> None:
    errors = [error(solver, steps, shift) for steps in (64, 128, 256, 512)]
    order = SOLVERS[solver][1]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.12)


def test_the_closed_forms_agree_with_each_other() -> None:
    """The velocity used here solves the flow map used here: two derivations, one answer."""
    assert error("heun", 4096) < 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_trigflow_network_samples_the_same_data(solver: str) -> None:
    """Solving in rectified time through a wrapped TrigFlow network reaches the same flow map."""
    path = get_interpolant("trigflow")

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
    run = SOLVERS[solver][0]
    torch.testing.assert_close(run(wrapped, noise, times), run(velocity, noise, times))


@pytest.mark.parametrize(
    ("solver", "intervals", "nfe"),
    [("euler", 10, 10), ("heun", 10, 19), ("euler", 9, 9), ("heun", 9, 18)],
)
def test_evaluations_and_their_times(solver: str, intervals: int, nfe: int) -> None:
    """Of ten steps to t = 0, all or all but the last: Heun saves one evaluation at t = 0 only."""
    seen: list[float] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (3,)
        seen.append(t[0].item())
        return velocity(x, t)

    SOLVERS[solver][0](counted, torch.zeros(3, 2), uniform_times(10)[: intervals + 1])
    assert len(seen) == nfe
    assert min(seen) > 0


@pytest.mark.parametrize(("solver", "tolerance"), [("euler", 5e-3), ("heun", 1e-6)])
def test_the_way_may_end_before_the_data(solver: str, tolerance: float) -> None:
    """At t the flow map is (1 - t) MEAN + sqrt((1 - t)^2 STD^2 + t^2) noise."""
    noise = torch.linspace(-2, 2, 16, dtype=torch.float64).reshape(8, 2)
    times = torch.linspace(1, 0.5, 513, dtype=torch.float64)
    exact = 0.5 * MEAN + math.sqrt(0.25 * STD**2 + 0.25) * noise
    found = SOLVERS[solver][0](velocity, noise, times)
    torch.testing.assert_close(found, exact, rtol=0, atol=tolerance)


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


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("times", [[0.0, 1.0], [1.0], [1.0, 0.5, 0.5], [1.5, 0.0], [1.0, -0.1]])
def test_times_that_do_not_descend_are_refused(solver: str, times: list[float]) -> None:
    with pytest.raises(RequestError, match="must decrease"):
        SOLVERS[solver][0](velocity, torch.zeros(1, 2), torch.tensor(times))
