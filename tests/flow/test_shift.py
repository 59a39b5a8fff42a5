"""Flow shift: its identities and the published constants."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.errors import RequestError
from workbench.flow import shift_time

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0, 12.0])
def test_shift_identities(shift: float) -> None:
    shifted = shift_time(T, shift)
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


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan])
def test_a_shift_that_is_not_positive_is_refused(shift: float) -> None:
    with pytest.raises(RequestError, match="flow_shift must be positive"):
        shift_time(0.5, shift)
