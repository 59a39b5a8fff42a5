"""Interpolants: alignment by SNR, both directions, and derivatives against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import INTERPOLANTS, Interpolant, expand_like

NAMES = sorted(INTERPOLANTS)
EPSILON = torch.finfo(torch.float32).eps


def own_times(path: Interpolant, dtype: torch.dtype = torch.float64) -> Tensor:
    """1001 times over the whole range, off the grid of VP's steps."""
    low, high = path.time_range
    return (low + (high - low) * torch.linspace(0, 1, 1001, dtype=torch.float64)).to(dtype)


def ends_of_time() -> Tensor:
    """Rectified times within 1e-2 .. 1e-6 of either end, and 0.5, float64."""
    near = torch.logspace(-6, -2, 30, dtype=torch.float64)
    return torch.cat((near, torch.tensor([0.5], dtype=torch.float64), 1 - near.flip(0)))


@pytest.mark.parametrize("name", NAMES)
def test_own_time_survives_the_round_trip_in_float64(name: str) -> None:
    path = INTERPOLANTS[name]
    s = own_times(path)
    back = path.from_rectified(path.to_rectified(s))
    torch.testing.assert_close(back, s, rtol=1e-12, atol=1e-11 * path.time_range[1])


@pytest.mark.parametrize("name", NAMES)
def test_rectified_time_survives_the_round_trip_near_both_ends(name: str) -> None:
    path = INTERPOLANTS[name]
    t = ends_of_time()
    back = path.to_rectified(path.from_rectified(t))
    torch.testing.assert_close(back, t, rtol=1e-11, atol=0)
    torch.testing.assert_close(1 - back, 1 - t, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_float32_error_is_a_few_roundings_near_both_ends(name: str) -> None:
    """Relative to t at the data end; of t's own spacing at the noise end."""
    path = INTERPOLANTS[name]
    t = ends_of_time().float()
    back = path.to_rectified(path.from_rectified(t))
    assert back.dtype == torch.float32
    tolerance = 8 * EPSILON
    data_end = t < 0.5
    assert ((back - t).abs() / t)[data_end].max() <= tolerance
    assert (back - t).abs()[~data_end].max() <= tolerance


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name: str) -> None:
    path = INTERPOLANTS[name]
    s = own_times(path, torch.float32)
    torch.testing.assert_close(
        path.to_rectified(s).double(), path.to_rectified(s.double()), rtol=3e-7, atol=3e-7
    )


@pytest.mark.parametrize("name", NAMES)
def test_alignment_means_equal_snr(name: str) -> None:
    path = INTERPOLANTS[name]
    t = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    s = path.from_rectified(t)
    torch.testing.assert_close(path.snr(s), ((1 - t) / t) ** 2, rtol=1e-9, atol=0)
    torch.testing.assert_close(path.to_rectified(s), 1 / (1 + path.snr(s).sqrt()))


@pytest.mark.parametrize("name", NAMES)
def test_own_time_rises_from_data_to_noise(name: str) -> None:
    path = INTERPOLANTS[name]
    assert (path.to_rectified(own_times(path)).diff() > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_match_central_differences(name: str) -> None:
    path = INTERPOLANTS[name]
    s = own_times(path)[1:-1]
    if name == "vp":
        s = s.floor() + 0.3 + 0.4 * torch.rand(len(s), dtype=s.dtype)  # kinks lie at the steps
    h = 1e-6 * torch.clamp(s, min=1e-2)
    up, down, here = (path.coefficients(at) for at in (s + h, s - h, s))
    for value, slope in (("alpha", "d_alpha"), ("sigma", "d_sigma"), ("t", "d_t")):
        difference = (getattr(up, value) - getattr(down, value)) / (2 * h)
        torch.testing.assert_close(getattr(here, slope), difference, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_rescaled_samples_are_rectified_flow_samples(name: str) -> None:
    path, rectified = INTERPOLANTS[name], INTERPOLANTS["rectified_flow"]
    t = torch.tensor([0.03, 0.5, 0.97], dtype=torch.float64)
    x0, eps = torch.randn(2, 3, 2, 4, dtype=torch.float64).unbind(0)
    s = path.from_rectified(t)
    x_s = path.interpolate(x0, eps, s)
    x_t = rectified.interpolate(x0, eps, t)
    torch.testing.assert_close(path.to_rectified_x(x_s, s), x_t)
    torch.testing.assert_close(path.from_rectified_x(x_t, s), x_s)


def test_closed_forms() -> None:
    s = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    trig, edm = INTERPOLANTS["trigflow"], INTERPOLANTS["edm"]
    torch.testing.assert_close(trig.to_rectified(s), s.sin() / (s.sin() + s.cos()))
    torch.testing.assert_close(edm.to_rectified(s), s / (1 + s))
    half = trig.from_rectified(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(half, torch.tensor([0, math.pi / 4, math.pi / 2]).double())


def test_vp_is_ddpm_at_every_step() -> None:
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    path = INTERPOLANTS["vp"]
    c = path.coefficients(torch.arange(1000, dtype=torch.float64))
    np.testing.assert_allclose(c.alpha.numpy(), np.sqrt(alpha_bar), rtol=1e-12)
    np.testing.assert_allclose(c.sigma.numpy(), np.sqrt(1 - alpha_bar), rtol=1e-11)


def test_unknown_interpolant_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'trigflow'"):
        INTERPOLANTS["trigflwo"]


def test_expand_like_neither_promotes_nor_rounds() -> None:
    t = torch.tensor([0.123456789, 0.9], dtype=torch.float64)
    wide = expand_like(t, torch.zeros(2, 3, 4, dtype=torch.float32))
    assert wide.shape == (2, 1, 1)
    assert wide.dtype == torch.float32
    assert expand_like(t.float(), torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
