"""Intervals against scipy.stats, which computes them its own way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from workbench.reports import estimate, welch


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_a_mean_has_scipys_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 0.02, n).tolist()
    found = estimate(values)
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval == pytest.approx((low, high), rel=1e-9)


def test_two_seeds_by_hand() -> None:
    # t(1) at 0.975 is tan(pi (0.975 - 0.5)): one degree of freedom is a Cauchy variable.
    found = estimate([1.0, 2.0])
    assert found.half == pytest.approx(math.tan(math.pi * 0.475) * math.sqrt(0.5) / math.sqrt(2))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        low, high = estimate(chance.normal(1.0, 0.3, 3).tolist()).interval or (0, 0)
        inside += low <= 1.0 <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 5), (4, 3)])
def test_a_difference_is_scipys_welch(n: int, m: int) -> None:
    chance = np.random.default_rng(10 * n + m)
    values, reference = chance.normal(0.5, 0.05, n).tolist(), chance.normal(0.4, 0.01, m).tolist()
    found = welch(values, reference)
    known = stats.ttest_ind(values, reference, equal_var=False)
    low, high = known.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high), rel=1e-9)
    assert found.freedom == pytest.approx(known.df, rel=1e-9)
    assert found.excludes_zero == (known.pvalue < 0.05)


def test_seeds_that_are_missing_or_equal() -> None:
    assert estimate([0.4]).interval is None
    alone = welch([0.5], [0.4, 0.41])
    assert (alone.half, alone.excludes_zero) == (None, None)
    assert alone.mean == pytest.approx(0.095)
    assert welch([0.5, 0.5], [0.4, 0.4]).excludes_zero is True
    assert welch([0.4, 0.4], [0.4, 0.4]).excludes_zero is False
    with pytest.raises(ValueError, match="needs values"):
        estimate([])
    with pytest.raises(ValueError, match="both sides"):
        welch([], [1.0])


def test_a_diverged_seed_is_no_evidence() -> None:
    found = estimate([0.4, math.inf])
    assert found.mean == math.inf
    assert welch([0.4, math.inf], [0.4, 0.5]).excludes_zero is None
