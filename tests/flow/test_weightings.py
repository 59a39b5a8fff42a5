"""Weightings against the formulas they are named after."""

from __future__ import annotations

import pytest
import torch

from workbench.errors import RequestError
from workbench.flow import (
    WEIGHTINGS,
    SampleWeighting,
    TimeWeighting,
    register_weighting,
)
from workbench.lookup import Lookup

T_ONLY = ["1", "1-t", "(1-t)^2", "1/t", "1/t^2", "(1-t)/t", "(1-t)^2/t^2"]


def sample() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    x_g = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    f_phi = torch.randn(7, 2, 3, dtype=torch.float64, requires_grad=True)
    return t, x_g, f_phi


def test_the_published_weightings_and_no_others() -> None:
    assert set(WEIGHTINGS) == {*T_ONLY, "sid"}
    assert {name for name, w in WEIGHTINGS.items() if isinstance(w, TimeWeighting)} == set(T_ONLY)


@pytest.mark.parametrize("name", T_ONLY)
def test_the_name_is_the_formula(name: str) -> None:
    t, x_g, f_phi = sample()
    weighting = WEIGHTINGS[name]
    assert isinstance(weighting, TimeWeighting)
    found = weighting(t, x_g, f_phi)
    literal = [eval(name.replace("^", "**"), {"t": at}) for at in t.tolist()]
    torch.testing.assert_close(found, torch.tensor(literal, dtype=torch.float64))
    torch.testing.assert_close(weighting.of_t(t.detach()), found)


def test_sid_is_one_over_the_mean_absolute_error_of_each_sample() -> None:
    t, x_g, f_phi = sample()
    weighting = WEIGHTINGS["sid"]
    found = weighting(t, x_g, f_phi)
    literal = [
        6 / sum(abs(a - b) for a, b in zip(x, f, strict=True))
        for x, f in zip(x_g.flatten(1).tolist(), f_phi.flatten(1).tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(literal, dtype=torch.float64))


@pytest.mark.parametrize("name", [*T_ONLY, "sid"])
def test_weights_are_one_a_sample_and_carry_no_gradient(name: str) -> None:
    t, x_g, f_phi = sample()
    weights = WEIGHTINGS[name](t, x_g, f_phi)
    assert weights.shape == (7,)
    assert not weights.requires_grad


def test_sid_is_no_function_of_t_and_finite_at_a_perfect_match() -> None:
    weighting = WEIGHTINGS["sid"]
    assert isinstance(weighting, SampleWeighting)
    x = torch.randn(2, 3)
    assert weighting(torch.tensor([0.1, 0.9]), x, x).isfinite().all()


def test_unknown_weighting_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"Did you mean '\(1-t\)\^2'"):
        WEIGHTINGS["(1-t)**2"]


def test_own_weightings_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Lookup("weighting", WEIGHTINGS)
    monkeypatch.setattr("workbench.flow.weightings.WEIGHTINGS", registered)
    own = TimeWeighting("t", lambda t: t)
    register_weighting(own)
    assert registered["t"] is own
    with pytest.raises(RequestError, match="already registered"):
        register_weighting(TimeWeighting("1/t", lambda t: t))
