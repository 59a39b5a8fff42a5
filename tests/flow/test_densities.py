"""Densities of t: their own consistency, their definitions, and true truncation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import (
    DENSITIES,
    LogitNormal,
    NoiseSource,
    TimeDensity,
    get_density,
    register_density,
)
from workbench.lookup import Lookup

NAMES = ["ddpm", "edm_sid", "edm_train", "sana", "sid", "trigflow"]
RANGES = [(0.0, 1.0), (0.0, 0.5), (0.3, 0.9), (0.55, 0.56)]
DRAWS = 20_000
SIGNIFICANCE = 1e-3

cases = pytest.mark.parametrize(("name", "t_range"), [(n, r) for n in NAMES for r in RANGES])


def draw(density: TimeDensity, seed: int = 0) -> Tensor:
    return density.quantile(NoiseSource(seed).uniform(f"test/{density.name}", 0, DRAWS))


def ks_p_value(samples: Tensor, density: TimeDensity) -> float:
    def cdf(t: np.ndarray) -> np.ndarray:
        return density.cdf(torch.from_numpy(t)).numpy()

    return float(stats.kstest(samples.numpy(), cdf).pvalue)


def integral_of_pdf(density: TimeDensity, low: float, high: float) -> float:
    """The pdf over [low, high] in logit t, where every density here is smooth or a step."""
    low, high = max(low, density.support[0]), min(high, density.support[1])
    ends = torch.tensor([max(low, 1e-9), min(high, 1 - 1e-9)], dtype=torch.float64).logit()
    z = torch.linspace(ends[0].item(), ends[1].item(), 100_001, dtype=torch.float64)
    t = torch.sigmoid((z[1:] + z[:-1]) / 2)
    return float((density.pdf(t) * t * (1 - t)).sum() * (z[1] - z[0]))


def test_the_six_densities_of_the_paper() -> None:
    assert sorted(DENSITIES) == NAMES


@cases
def test_pdf_integrates_to_one(name: str, t_range: tuple[float, float]) -> None:
    assert integral_of_pdf(get_density(name, t_range), 0, 1) == pytest.approx(1, abs=2e-4)


@cases
def test_cdf_is_the_integral_of_the_pdf(name: str, t_range: tuple[float, float]) -> None:
    density = get_density(name, t_range)
    for at in np.linspace(*density.support, 6)[1:-1]:
        found = density.cdf(torch.tensor([at], dtype=torch.float64)).item()
        assert found == pytest.approx(integral_of_pdf(density, 0, at), abs=2e-4)


@cases
def test_quantile_inverts_cdf(name: str, t_range: tuple[float, float]) -> None:
    density = get_density(name, t_range)
    u = torch.linspace(1e-6, 1 - 1e-6, 10_001, dtype=torch.float64)
    t = density.quantile(u)
    assert (t.diff() > 0).all()
    torch.testing.assert_close(density.cdf(t), u, rtol=0, atol=1e-10)
    ends = density.quantile(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor(density.support, dtype=torch.float64))


@cases
def test_samples_follow_the_distribution(name: str, t_range: tuple[float, float]) -> None:
    density = get_density(name, t_range)
    samples = draw(density)
    assert ((samples > t_range[0]) & (samples < t_range[1])).all()
    assert ks_p_value(samples, density) > SIGNIFICANCE
    drawn = density.sample(DRAWS, torch.Generator().manual_seed(1))
    assert ks_p_value(drawn, density) > SIGNIFICANCE


@pytest.mark.parametrize("name", NAMES)
def test_truncation_is_rejection_and_clamping_would_fail_the_same_test(name: str) -> None:
    low, high = 0.3, 0.6
    density = get_density(name, (low, high))
    whole = draw(get_density(name), seed=1)
    kept = whole[(whole >= low) & (whole <= high)]
    assert ks_p_value(kept, density) > SIGNIFICANCE
    clamped = whole.clamp(low, high)
    assert ks_p_value(clamped, density) < 1e-12


def test_truncation_of_a_truncation_is_one_truncation() -> None:
    t = torch.linspace(0, 1, 501, dtype=torch.float64)
    twice = get_density("sid", (0.2, 0.9)).truncated(0.1, 0.5)
    once = get_density("sid", (0.2, 0.5))
    assert twice.support == once.support
    torch.testing.assert_close(twice.pdf(t), once.pdf(t))


def definition(name: str, rng: np.random.Generator) -> np.ndarray:
    """Times drawn as the density's definition says, without the library."""
    n = DRAWS
    if name in ("sid", "trigflow"):
        mean, std = {"sid": (0.0, 1.6), "trigflow": (-1.0, 1.4)}[name]
        s = np.arctan(np.exp(rng.normal(mean, std, n)) / 0.5)
        return np.sin(s) / (np.sin(s) + np.cos(s))
    if name == "sana":
        u = 1 / (1 + np.exp(-rng.normal(size=n)))
        u = (np.floor(u * 1000) + 1) / 1000
        return 3 * u / (1 + 2 * u)
    if name == "ddpm":
        alpha_sq = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[rng.integers(0, 1000, n)]
        return 1 / (1 + np.sqrt(alpha_sq / (1 - alpha_sq)))
    if name == "edm_train":
        sigma = np.exp(rng.normal(-1.2, 1.2, n))
        return sigma / (1 + sigma)
    a, b = 0.002 ** (1 / 7), 80 ** (1 / 7)
    sigma = (a + rng.uniform(0, 0.8, n) * (b - a)) ** 7
    return sigma / (1 + sigma)


@pytest.mark.parametrize("name", NAMES)
def test_each_density_is_its_definition(name: str) -> None:
    samples = torch.from_numpy(definition(name, np.random.default_rng(7)))
    for other in NAMES:
        p_value = ks_p_value(samples, get_density(other))
        assert (p_value > SIGNIFICANCE) == (other == name), f"{name} against {other}: {p_value}"


def test_the_discrete_densities_stay_within_a_cell_of_their_grids() -> None:
    """Grid densities are spread over cells; no probability moves further than one cell."""
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    exact = torch.special.ndtr(torch.logit(u))
    torch.testing.assert_close(get_density("sana").cdf(3 * u / (1 + 2 * u)), exact)

    alpha_sq = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    grid = 1 / (1 + (alpha_sq / (1 - alpha_sq)).sqrt())
    exact = torch.arange(1, 1001, dtype=torch.float64) / 1000
    assert (get_density("ddpm").cdf(grid) - exact).abs().max() <= 1e-3 + 1e-9


def test_sid_pdf_against_scipy() -> None:
    t = np.linspace(0.01, 0.99, 99)
    exact = stats.norm(math.log(2), 1.6).pdf(np.log(t / (1 - t))) / (t * (1 - t))
    np.testing.assert_allclose(get_density("sid").pdf(torch.from_numpy(t)).numpy(), exact)
    mass = integrate.quad(
        lambda at: get_density("sid").pdf(torch.tensor([at])).item(), 0.3, 0.6, epsabs=1e-9
    )[0]
    assert get_density("sid", (0.3, 0.6)).mass == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_the_support(name: str) -> None:
    outside = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    density = get_density(name)
    assert density.pdf(outside).tolist() == [0, 0, 0, 0]
    assert density.cdf(outside).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "t_range", [(0.9, 0.1), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1), (float("nan"), 1.0)]
)
def test_a_range_that_is_no_range_is_refused(t_range: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match="0 <= low < high <= 1"):
        get_density("sid", t_range)


def test_a_range_without_probability_is_refused() -> None:
    with pytest.raises(RequestError, match="no probability in t_range"):
        get_density("edm_sid", (0.97, 0.99))


def test_unknown_density_names_the_nearest() -> None:
    with pytest.raises(RequestError, match="Did you mean 'edm_train'"):
        get_density("edm_trian")


def test_own_densities_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = Lookup("density of t", DENSITIES)
    monkeypatch.setattr("workbench.flow.densities.DENSITIES", registered)
    own = LogitNormal("middle", 0.0, 1.0)
    register_density(own)
    register_density(own)
    assert get_density("middle") is own
    with pytest.raises(RequestError, match="already registered"):
        register_density(LogitNormal("sid", 0.0, 1.0))
