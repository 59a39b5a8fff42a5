from __future__ import annotations

import pytest
import torch

from tests.helpers import SmallVelocity
from workbench.errors import RequestError
from workbench.flow import NoiseSource, euler, shift_time, uniform_times
from workbench.methods import (
    NOISE_RULES,
    FewStepSampler,
    GeneratorConfig,
    step_times,
)

SHAPE = (3,)
BATCH = 6


def draws(step: int) -> torch.Tensor:
    return NoiseSource(5).normal(f"step{step}", 0, BATCH, SHAPE)


@pytest.fixture
def network() -> SmallVelocity:
    return SmallVelocity(seed=1)


def sampler(steps: int, noise: str, shift: float = 1.0) -> FewStepSampler:
    return FewStepSampler(GeneratorConfig(steps=steps, noise=noise, flow_shift=shift))


def test_times_of_four_steps() -> None:
    assert step_times(4).tolist() == [1.0, 0.75, 0.5, 0.25]
    shifted = step_times(4, flow_shift=3.0)
    torch.testing.assert_close(shifted, shift_time(step_times(4), 3.0))
    assert shifted[0] == 1


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
def test_ddim_is_euler_on_the_same_grid(network: SmallVelocity, steps: int, shift: float) -> None:
    def velocity(x: torch.Tensor, t: torch.Tensor, cond: None = None) -> torch.Tensor:
        return network.velocity(x, t, cond)

    ours = sampler(steps, "ddim", shift).sample(velocity, None, draws)
    theirs = euler(velocity, draws(0), uniform_times(steps, shift))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", sorted(NOISE_RULES))
@pytest.mark.parametrize("evaluations", [1, 2, 3, 4])
def test_steps_follow_the_definition(network: SmallVelocity, noise: str, evaluations: int) -> None:
    """A literal transcription of the definition, in float64 and without shared code."""
    times = [1.0, 0.75, 0.5, 0.25]
    network = network.double()
    x0_hat = torch.zeros(BATCH, 3, dtype=torch.float64)
    x = previous = None
    for i in range(evaluations):
        t = times[i]
        fresh = draws(i).double()
        if noise == "fresh":
            n = fresh
        elif noise == "fixed" or i == 0:
            n = draws(0).double()
        else:
            n = (x - (1 - previous) * x0_hat) / previous
        x = (1 - t) * x0_hat + t * n
        x0_hat = x - t * network.velocity(x, torch.full((BATCH,), t, dtype=torch.float64), None)
        previous = t
    network.float()
    ours = sampler(4, noise).sample(network.velocity, None, draws, evaluations)
    torch.testing.assert_close(ours.double(), x0_hat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", sorted(NOISE_RULES))
def test_only_the_last_evaluation_carries_gradient(network: SmallVelocity, noise: str) -> None:
    graphs: list[bool] = []

    def velocity(x: torch.Tensor, t: torch.Tensor, cond: None) -> torch.Tensor:
        assert not x.requires_grad
        value = network.velocity(x, t, cond)
        graphs.append(value.requires_grad)
        return value

    output = sampler(4, noise).sample(velocity, None, draws, evaluations=3)
    assert graphs == [False, False, True]
    assert output.requires_grad


def test_first_steps_of_the_grid_are_shared(network: SmallVelocity) -> None:
    seen: list[float] = []

    def velocity(x: torch.Tensor, t: torch.Tensor, cond: None) -> torch.Tensor:
        seen.append(float(t[0]))
        return network.velocity(x, t, cond)

    sampler(4, "fresh").sample(velocity, None, draws, evaluations=2)
    assert seen == [1.0, 0.75]


@pytest.mark.parametrize("evaluations", [0, 5])
def test_evaluations_outside_the_grid_are_refused(evaluations: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.4"):
        sampler(4, "fresh").sample(lambda x, t, cond: x, None, draws, evaluations)


def test_unknown_noise_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'fresh'"):
        NOISE_RULES["frsh"]
