"""Intervals and verdicts against scipy.stats, closed forms, and simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from workbench.reports import Observation, difference, estimate, estimate_scores, holm
from workbench.reports.statistics import (
    DIVERGED,
    NO_PAIRS,
    NO_SPREAD,
    ONE_NOISE,
    ONE_SEED,
    SOME_NOISE,
    on_common_noise,
)

Scores = NDArray[np.float64]


def own_noise(scores: Sequence[float] | Scores) -> list[Observation]:
    """Each training seed at evaluation seeds of its own: (n,) or (n, m)."""
    table = np.asarray(scores, dtype=float).reshape(len(scores), -1)
    return [
        Observation(seed, 1000 * number + seed, float(value))
        for seed, row in enumerate(table)
        for number, value in enumerate(row)
    ]


def same_noise(scores: Sequence[Sequence[float]] | Scores) -> list[Observation]:
    """All training seeds at the same evaluation seeds: (n, m)."""
    return [
        Observation(seed, noise, float(value))
        for seed, row in enumerate(scores)
        for noise, value in enumerate(row)
    ]


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_a_mean_has_scipys_t_interval(n: int) -> None:
    values = np.random.default_rng(n).normal(0.4, 0.02, n).tolist()
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    for found in (estimate(values), estimate_scores(own_noise(values))):
        assert found.mean == pytest.approx(np.mean(values))
        assert found.interval == pytest.approx((low, high), rel=1e-9)


def test_two_seeds_by_hand() -> None:
    # t(1) at 0.975 is tan(pi (0.975 - 0.5)): one degree of freedom is a Cauchy variable.
    found = estimate([1.0, 2.0])
    assert found.half == pytest.approx(math.tan(math.pi * 0.475) * math.sqrt(0.5) / math.sqrt(2))


def test_several_evaluation_seeds_of_a_run_count_by_their_mean() -> None:
    scores = np.random.default_rng(4).normal(0.4, 0.02, (4, 3))
    found = estimate_scores(own_noise(scores))
    assert found.interval == pytest.approx(estimate(scores.mean(1).tolist()).interval)
    within = scores.var(axis=1, ddof=1).mean()
    assert found.evaluation_sd == pytest.approx(math.sqrt(within))
    between = scores.mean(1).var(ddof=1) - within / 3
    assert found.training_sd == pytest.approx(math.sqrt(max(between, 0)))


def test_one_noise_for_all_is_no_interval() -> None:
    """How much the noise adds cannot be known from runs that share it."""
    shared = same_noise([[0.50], [0.52], [0.51]])
    found = estimate_scores(shared)
    assert (found.half, found.reason) == (None, ONE_NOISE)
    assert found.training_sd == pytest.approx(0.01)
    other = same_noise([[0.30], [0.31], [0.32]])
    assert difference(shared, other).reason == ONE_NOISE
    assert difference(shared, other).p is None


def test_pairs_are_scipys_paired_test() -> None:
    chance = np.random.default_rng(7)
    ours, theirs = chance.normal(0.5, 0.05, 5), chance.normal(0.4, 0.05, 5)
    found = difference(own_noise(ours), own_noise(theirs))
    known = stats.ttest_rel(ours, theirs)
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)), rel=1e-9)
    assert found.p == pytest.approx(known.pvalue, rel=1e-9)
    assert found.seeds == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (2, 5), (4, 3)])
def test_without_seeds_in_common_it_is_scipys_welch(n: int, m: int) -> None:
    chance = np.random.default_rng(10 * n + m)
    ours, theirs = chance.normal(0.5, 0.05, n), chance.normal(0.4, 0.01, m)
    others = [each._replace(training_seed=50 + i) for i, each in enumerate(own_noise(theirs))]
    others = [each._replace(evaluation_seed=50 + i) for i, each in enumerate(others)]
    found = difference(own_noise(ours), others)
    known = stats.ttest_ind(ours, theirs, equal_var=False)
    assert found.interval == pytest.approx(tuple(known.confidence_interval(0.95)), rel=1e-9)
    assert (found.freedom, found.p) == pytest.approx((known.df, known.pvalue), rel=1e-9)
    # On the noise of the first group they are not independent, and there are no pairs.
    assert (
        difference(own_noise(ours), [each._replace(evaluation_seed=0) for each in others]).p is None
    )


def test_crossed_seeds_by_the_analysis_of_variance() -> None:
    """Mean squares by a second computation: least squares on indicators of rows and columns."""
    scores = np.random.default_rng(3).normal(0.0, 1.0, (4, 5))
    scores += np.arange(4)[:, None] + 0.7 * np.arange(5)
    n, m = scores.shape
    rows, columns = np.repeat(np.eye(n), m, axis=0), np.tile(np.eye(m), (n, 1))
    flat = scores.reshape(-1)

    def left(*parts: Scores) -> float:
        design = np.concatenate([np.ones((n * m, 1)), *parts], axis=1)
        fitted = design @ np.linalg.lstsq(design, flat, rcond=None)[0]
        return float(((flat - fitted) ** 2).sum())

    both = left(rows, columns)
    training = (left(columns) - both) / (n - 1)
    evaluation = (left(rows) - both) / (m - 1)
    both /= (n - 1) * (m - 1)
    assert training > evaluation > both
    error = (training + evaluation - both) / (n * m)
    found = estimate_scores(same_noise(scores))
    freedom = (training + evaluation - both) ** 2 / (
        training**2 / (n - 1) + (evaluation - both) ** 2 / (m - 1)
    )
    freedom = min(freedom, 2 * (n - 1))
    assert found.half == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(error), rel=1e-6)


def _simulated(
    design: str, shape: tuple[int, int], correlation: float, effects: tuple[float, float, float]
) -> tuple[float, float]:
    """Coverage of the interval of a difference of two equal variants, and how often p <= 0.05.

    Args:
        effects: standard deviations over training seeds, evaluation seeds, and of both together.
        correlation: of the first two between the variants.
    """
    chance = np.random.default_rng([*shape, round(10 + 10 * correlation)])
    n, m = shape
    make = own_noise if design == "own" else same_noise
    noise = (n, m) if design == "own" else (1, m)

    def pair(size: tuple[int, int]) -> tuple[Scores, Scores]:
        one, other = chance.normal(size=(2, *size))
        return one, correlation * one + math.sqrt(1 - correlation**2) * other

    inside = told = 0
    for _ in range(_TIMES):
        parts = [pair((n, 1)), pair(noise), tuple(chance.normal(size=(2, n, m)))]
        ours, theirs = (
            sum(sd * part[side] for sd, part in zip(effects, parts, strict=True)) for side in (0, 1)
        )
        found = difference(make(ours), make(theirs))
        assert found.interval is not None
        assert found.p is not None
        inside += found.interval[0] <= 0 <= found.interval[1]
        told += found.p <= 0.05
    return inside / _TIMES, told / _TIMES


_TIMES = 2500


@pytest.mark.parametrize("correlation", [0.0, 0.8, -0.8])
@pytest.mark.parametrize(
    ("design", "shape"),
    [("own", (3, 1)), ("own", (5, 3)), ("crossed", (3, 9)), ("crossed", (5, 5))],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    design: str, shape: tuple[int, int], correlation: float
) -> None:
    """Independent, positively and negatively correlated seeds; 2500 times: +- 0.9 % (2 sd)."""
    covered, told = _simulated(design, shape, correlation, (1.0, 1.0, 0.5))
    assert 0.93 <= covered <= 0.975
    assert told <= 0.06 + 0.009


def test_what_was_done_before_does_not() -> None:
    """Welch over runs of one noise: what that noise likes is taken for a difference."""
    chance = np.random.default_rng(0)
    told = 0
    for _ in range(1000):
        noise = chance.normal(size=2)  # one for all runs of a variant, in which variants differ
        sides = 0.3 * chance.normal(size=(2, 3)) + noise[:, None]
        told += stats.ttest_ind(*sides, equal_var=False).pvalue <= 0.05
    assert told / 1000 > 0.5


def test_holm_by_hand() -> None:
    """Sorted p times what is left, never falling, at most 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.02, 0.6]) == pytest.approx([1.0, 0.06, 1.0])
    assert holm([]) == []


def test_holm_bounds_the_chance_of_any_false_verdict() -> None:
    """Seven equal variants, all 21 pairs, five seeds each with noise of its own."""
    chance = np.random.default_rng(5)
    false = 0
    for _ in range(300):
        groups = [own_noise(chance.normal(size=5)) for _ in range(7)]
        ps = [
            difference(one, other).p or 0.0
            for place, one in enumerate(groups)
            for other in groups[:place]
        ]
        false += min(holm(ps)) <= 0.05
    assert false / 300 <= 0.05 + 0.025


def test_seeds_that_are_missing_or_equal() -> None:
    assert (estimate([0.4]).interval, estimate([0.4]).reason) == (None, ONE_SEED)
    alone = difference(own_noise([0.5]), own_noise([0.4, 0.41]))
    assert (alone.half, alone.p, alone.reason) == (None, None, ONE_SEED)
    assert alone.mean == pytest.approx(0.095)
    # Coarse scores are equal by chance: no spread is no certainty.
    coarse = difference(own_noise([0.5, 0.5]), own_noise([0.4, 0.4]))
    assert (coarse.half, coarse.p, coarse.reason) == (None, None, NO_SPREAD)
    assert difference(own_noise([0.4, 0.4]), own_noise([0.4, 0.4])).p == 1.0
    with pytest.raises(ValueError, match="needs values"):
        estimate([])
    with pytest.raises(ValueError, match="needs scores"):
        difference([], own_noise([1.0]))
    with pytest.raises(ValueError, match="two scores"):
        estimate_scores([Observation(0, 0, 1.0), Observation(0, 0, 2.0)])


def test_seeds_in_common_are_paired_and_the_others_left_out() -> None:
    ours = own_noise([0.5, 0.6, 0.7])
    theirs = [each for each in own_noise([0.4, 0.45, 0.62, 9.0]) if each.training_seed != 0]
    found = difference(ours, theirs)
    assert found.seeds == (1, 2)
    assert found.mean == pytest.approx((0.15 + 0.08) / 2)
    one = [each for each in own_noise([0.4, 0.45, 0.62, 9.0]) if each.training_seed >= 2]
    assert difference(ours, one).reason == NO_PAIRS


def test_scores_are_reduced_to_the_noise_that_all_runs_share() -> None:
    """Runs of own seeds 0 to 2, scored again at 0, 1 and 2, are a complete table."""
    scores = [Observation(s, e, 0.4 + 0.01 * s + 0.02 * e) for s in (4, 5) for e in (0, 1, 2)]
    own = [Observation(4, 4, 9.0), Observation(5, 5, 9.0)]
    assert on_common_noise([*scores, *own]) == tuple(scores)
    assert on_common_noise(own) == tuple(own)


def test_noise_that_some_runs_share_is_said() -> None:
    scores = [Observation(0, 0, 0.5), Observation(1, 0, 0.52), Observation(2, 2, 0.51)]
    assert estimate_scores(scores).reason == SOME_NOISE
    assert difference(scores, own_noise([0.4, 0.5, 0.6])).reason is not None


def test_a_diverged_seed_leaves_no_interval() -> None:
    found = estimate_scores(own_noise([0.4, math.inf]))
    assert found.half is not None
    assert math.isnan(found.half)
    wild = difference(own_noise([0.4, math.inf]), own_noise([0.4, 0.5]))
    assert (wild.p, wild.reason) == (None, DIVERGED)
