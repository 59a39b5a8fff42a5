"""Flow shift: its identities and the published constants."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.errors import RequestError
from workbench.flow import resolution_shift, shift_time, unshift_time

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0, 12.0])
def test_shift_identities(shift: float) -> None:
    shifted = shift_time(T, shift)
    torch.testing.assert_close(unshift_time(shifted, shift), T)
    torch.testing.assert_close(shift_time(shifted, 1 / shift), T)
    torch.testing.assert_close(shift_time(shifted, 2.0), shift_time(T, 2 * shift))
    assert (shifted[0], shifted[-1]) == (0, 1)
    assert (shifted.diff() > 0).all()


def test_a_shift_divides_the_root_of_snr() -> None:
    t = T[1:-1]
    shifted = shift_time(t, 3.0)
    torch.testing.assert_close((1 - shifted) / shifted, (1 - t) / t / 3)


def test_shift_one_is_exactly_nothing() -> None:
    assert torch.equal(shift_time(T, 1.0), T)


def test_sd3_grid_at_shift_three_as_floats() -> None:
    assert [shift_time(t, 3.0) for t in (1.0, 0.75, 0.5, 0.25)] == [1.0, 0.9, 0.75, 0.5]


def test_flux_shift_is_linear_in_tokens_between_its_two_points() -> None:
    assert resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert resolution_shift(4096) == pytest.approx(math.exp(1.15))
    assert math.log(resolution_shift(2176)) == pytest.approx((0.5 + 1.15) / 2)


def test_flux_shift_is_the_schedulers_own() -> None:
    """diffusers writes the same map as exp(mu) / (exp(mu) + 1/t - 1)."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = [1.0, 0.75, 0.5, 0.25]
    scheduler.set_timesteps(sigmas=sigmas, mu=math.log(resolution_shift(1024)))
    ours = shift_time(torch.tensor(sigmas), resolution_shift(1024))
    torch.testing.assert_close(scheduler.sigmas[:-1], ours)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_that_is_not_positive_is_refused(shift: float) -> None:
    for function in (shift_time, unshift_time):
        with pytest.raises(RequestError, match="flow_shift must be positive"):
            function(0.5, shift)


def test_no_tokens_no_shift() -> None:
    with pytest.raises(RequestError, match="at least 1 token"):
        resolution_shift(0)
