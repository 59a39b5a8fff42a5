from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import RequestError
from workbench.evaluation import (
    CmmdMetric,
    FeatureStatistics,
    FrechetMetric,
    KernelMetric,
    MeanMetric,
    PrecisionMetric,
    RecallMetric,
    ReferenceRows,
    frechet_distance,
    kernels,
)
from workbench.evaluation.intervals import extrapolate, frechet_bias, halves, interval

DIMENSION = 12


class Seen:
    name, fingerprint, dimension = "seen", "0", DIMENSION


def rows(seed, count=500, shift=0.5):
    random = np.random.default_rng(seed)
    scale = np.linspace(0.5, 1.5, DIMENSION)
    return (random.normal(size=(count, DIMENSION)) * scale + shift).astype(np.float32)


REFERENCE = ReferenceRows(rows(999, 700, shift=0.0))
METRICS = [
    FrechetMetric(Seen(), REFERENCE.statistics),
    KernelMetric(Seen(), REFERENCE, subsets=5),
    CmmdMetric(Seen(), REFERENCE),
    PrecisionMetric(Seen(), REFERENCE),
    RecallMetric(Seen(), REFERENCE),
    MeanMetric(Seen(), "aesthetic"),
]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_interval_is_as_wide_as_scores_of_fresh_samples_are_apart(metric):
    fresh = [metric.compute(rows(seed)) for seed in range(60)]
    spread = np.std(fresh, ddof=1)
    widths = []
    for seed in (1, 2, 3):
        score = metric.compute(rows(seed))
        found = interval(metric, rows(seed), score, 300, seed)
        assert found.low < score < found.high
        widths.append((found.high - found.low) / (2 * 1.96))
    assert 0.7 < np.mean(widths) / spread < 1.4


def test_kids_interval_knows_that_its_subsets_hold_few_of_the_rows(monkeypatch):
    """4 subsets of 50 of 1000 rows: KID is as uncertain as 200 rows make it, not 1000."""
    monkeypatch.setattr(
        "workbench.evaluation.kernels.kernel_distance.__defaults__", (kernels.SUBSETS, 50)
    )
    monkeypatch.setattr(
        "workbench.evaluation.kernels.subset_weights.__defaults__", (kernels.SUBSETS, 50)
    )
    metric = KernelMetric(Seen(), REFERENCE, subsets=4)
    fresh = np.std([metric.compute(rows(seed, 1000, 1.5)) for seed in range(100)], ddof=1)
    x = rows(1, 1000, 1.5)
    found = interval(metric, x, metric.compute(x), 400, 0)
    assert 0.75 < (found.high - found.low) / (2 * 1.96) / fresh < 1.35


def test_equal_seed_equal_interval_and_halves_are_halves():
    metric, x = METRICS[0], rows(0)
    score = metric.compute(x)
    assert interval(metric, x, score, 50, 7) == interval(metric, x, score, 50, 7)
    assert interval(metric, x, score, 50, 7) != interval(metric, x, score, 50, 8)
    picks = halves(501, 20, np.random.default_rng(0))
    assert (picks.sum(axis=1) == 250).all()
    assert len({pick.tobytes() for pick in picks}) == 20


def test_resamples_with_repeats_would_leave_the_score_out():
    """Why halves: few samples and many features, where the bias is larger than the spread."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 40)), random.normal(size=(4000, 40))
    metric = FrechetMetric(Seen(), FeatureStatistics.from_features(y))
    score = metric.compute(x)
    repeated = [metric.compute(x[random.integers(0, 80, 80)]) for _ in range(100)]
    assert np.quantile(repeated, 0.025) > score
    found = interval(metric, x, score, 200, 0)
    assert found.low < score < found.high


def test_first_order_halves_move_as_whole_recomputations_do():
    metric, x = METRICS[0], rows(4, 800)
    picks = halves(800, 40, np.random.default_rng(1))
    quick = metric.replicates(x, picks)
    whole = np.array([metric.compute(x[pick]) for pick in picks])
    assert np.corrcoef(quick, whole)[0, 1] > 0.98
    assert np.std(quick) == pytest.approx(np.std(whole), rel=0.2)


def test_bias_and_extrapolation_find_the_distance_of_the_distributions():
    """Normal features with known moments: the distance at infinite N is known."""
    scale = np.linspace(0.5, 1.5, DIMENSION)
    truth = FeatureStatistics(np.full(DIMENSION, 0.1), np.diag(scale**2), 10**9)
    reference = FeatureStatistics(np.zeros(DIMENSION), np.diag(scale**2), 10**9)
    limit = frechet_distance(truth, reference)
    metric = FrechetMetric(Seen(), reference)
    hits, found_biases, biases = 0, [], []
    for seed in range(20):
        x = rows(seed, 600, shift=0.1)
        score = metric.compute(x)
        found = extrapolate(metric, x, 200, seed)
        hits += found.interval.low <= limit <= found.interval.high
        biases.append(score - limit)
        found_biases.append(frechet_bias(metric, x, score, seed))
        assert found.slope > 0
        assert [size for size, _ in found.points] == [600, 300, 200, 150]
        assert found.points[0][1] == pytest.approx(score)
    assert hits >= 16
    assert np.mean(found_biases) == pytest.approx(np.mean(biases), rel=0.35)


def test_no_bias_is_told_where_a_half_has_no_more_rows_than_features():
    """There the bias is no longer proportional to 1/N."""
    assert frechet_bias(METRICS[0], rows(0, 2 * DIMENSION + 1), 1.0, 0) is None
    x = rows(0, 2 * DIMENSION + 2)
    assert frechet_bias(METRICS[0], x, METRICS[0].compute(x), 0) > 0


def test_too_few_samples_are_told_how_many_it_takes():
    with pytest.raises(RequestError, match="at least 52 samples, not 51"):
        extrapolate(METRICS[0], rows(0, 51), 100, 0)
    with pytest.raises(RequestError, match="recall needs at least 8 samples, not 7"):
        interval(METRICS[4], rows(0, 7), 0.5, 100, 0)
    with pytest.raises(RequestError, match="at least 2 resamples for its interval, not 0"):
        extrapolate(METRICS[0], rows(0), 0, 0)
    with pytest.raises(RequestError, match="at least 2 resamples"):
        interval(METRICS[0], rows(0), 0.5, 1, 0)
