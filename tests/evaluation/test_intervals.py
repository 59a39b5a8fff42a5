from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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
)
from workbench.evaluation.design import Design
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.intervals import extrapolate, frechet_bias, interval, wilson

DIMENSION = 12


class Seen(FeatureExtractor):
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


def one_prompt(x, resamples=200, seed=0):
    return Design(("",) * len(x), resamples, seed)


def half_width(found):
    """In standard errors' units, if it were a normal distribution's."""
    return (found.high - found.low) / (2 * 1.96)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_an_interval_is_as_wide_as_scores_of_fresh_samples_are_apart(metric):
    fresh = [metric.compute(rows(seed)) for seed in range(60)]
    spread = np.std(fresh, ddof=1)
    widths = []
    for seed in (1, 2, 3):
        x = rows(seed)
        score = metric.compute(x)
        found = interval(metric, x, score, one_prompt(x, 300, seed))
        assert found.low < score < found.high
        widths.append(half_width(found))
    assert 0.7 < np.mean(widths) / spread < 1.4


def test_kids_interval_knows_that_its_subsets_hold_few_of_the_rows():
    """4 subsets of 50 of 1000 rows: KID is as uncertain as 200 rows make it, not 1000."""
    metric = KernelMetric(Seen(), REFERENCE, subsets=4, subset_size=50)
    fresh = np.std([metric.compute(rows(seed, 1000, 1.5)) for seed in range(100)], ddof=1)
    x = rows(1, 1000, 1.5)
    found = interval(metric, x, metric.compute(x), one_prompt(x))
    assert 0.75 < half_width(found) / fresh < 1.35


class Stratified:
    """Normal features around a center of each prompt's own; N samples over S prompts."""

    def __init__(self, samples, prompts, apart, shift, seed=0):
        self.random = np.random.default_rng(seed)
        centers = self.random.normal(size=(prompts, DIMENSION)) * apart
        self.centers = centers - centers.mean(axis=0)
        self.labels, self.shift = np.arange(samples) % prompts, shift
        real = self.at(self.random.integers(0, prompts, 4000))
        self.metric = FrechetMetric(Seen(), FeatureStatistics.from_features(real))

    def at(self, labels):
        noise = self.random.normal(size=(len(labels), DIMENSION)) * np.linspace(0.5, 1.5, DIMENSION)
        return noise + self.centers[labels]

    def draw(self):
        return (self.at(self.labels) + self.shift).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "prompts", "apart", "shift"),
    [(400, 1, 0.0, 0.3), (400, 1, 0.0, 0.0), (400, 10, 2.0, 0.3), (400, 10, 2.0, 0.0)],
)
def test_an_interval_of_fid_covers_its_expectation_where_prompts_repeat_and_where_not(
    samples, prompts, apart, shift
):
    """Also at the reference itself, where pairs of rows and not single ones move the distance."""
    world = Stratified(samples, prompts, apart, shift)
    design = Design([f"prompt {label}" for label in world.labels])
    scores, found = [], []
    for _ in range(600):
        x = world.draw()
        scores.append(world.metric.compute(x))
        found.append(interval(world.metric, x, scores[-1], design))
    expected = np.mean(scores)
    assert 0.93 < np.mean([ends.low <= expected <= ends.high for ends in found]) < 0.97
    assert np.mean([half_width(ends) for ends in found]) == pytest.approx(np.std(scores), rel=0.1)
    if prompts > 1:  # what it was before it knew of prompts
        blind = half_width(interval(world.metric, x, scores[-1], one_prompt(x)))
        assert blind > 1.3 * np.std(scores)


def test_the_error_of_real_digits_is_how_far_draws_of_so_many_of_each_are_apart(classifier, digits):
    """600 of 1797 without replacement; the factor is of a finite population."""
    images, labels = digits
    seen, labels = classifier.features(images).numpy(), labels.numpy()
    metric = FrechetMetric(classifier, FeatureStatistics.from_features(seen))
    random = np.random.default_rng(0)
    fresh, errors = [], []
    for _ in range(60):
        places = [random.permutation(np.flatnonzero(labels == digit))[:60] for digit in range(10)]
        x = seen[np.concatenate(places)]
        fresh.append(metric.compute(x))
        errors.append(metric.error(x, Design(np.repeat(np.arange(10), 60))))
    spread = np.std(fresh, ddof=1) / np.sqrt(1 - 600 / 1797)
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("samples", "prompts"), [(60, 30), (61, 30), (400, 100), (400, 200), (50, 20)]
)
def test_few_samples_of_a_prompt_cover_too(samples, prompts):
    """2 of each, 2 or 3, 4; a spread of pairs cannot be told there and is counted twice."""
    world = Stratified(samples, prompts, 1.5, 0.5)
    design = Design(world.labels)
    scores, found = [], []
    for _ in range(400):
        x = world.draw()
        scores.append(world.metric.compute(x))
        found.append(interval(world.metric, x, scores[-1], design))
    covered = [ends.low <= np.mean(scores) <= ends.high for ends in found]
    assert 0.925 < np.mean(covered) < 0.995


def test_the_error_of_a_mean_is_that_of_a_stratified_sample_for_any_sizes():
    """Unbiased for strata of 2, 3 and 7; prompts that occur once share a stratum (by hand)."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [2, 3, 7])
    sds, means = np.array([1.0, 3.0, 0.5]), np.array([0.0, 50.0, -20.0])
    draws = random.normal(size=(20_000, 12)) * sds[labels] + means[labels]
    squares = np.mean([Design(labels).error_of_mean(x) ** 2 for x in draws])
    assert squares == pytest.approx(draws.mean(axis=1).var(), rel=0.03)
    mixed = Design(["a", "b", "c", "a", "d"])  # a, a; b, c and d
    assert mixed.freedom == 3
    assert mixed.error_of_mean(np.array([1.0, 0, 3, 5, 6])) == pytest.approx(
        np.sqrt((2 * 8 + 3 / 2 * 18) / 25)
    )
    lone = Design(["a", "a", "b"])
    assert (lone.freedom, len(lone.counts)) == (2, 1)


def test_halves_and_parts_have_each_prompts_share():
    labels = np.repeat(np.arange(5), [1, 1, 3, 40, 56])
    picks = Design(labels, resamples=200).halves()
    assert (picks.sum(axis=1) == 50).all()
    assert len({pick.tobytes() for pick in picks}) == 200
    for label, least, most in ((2, 0, 3), (3, 19, 21), (4, 27, 29)):
        held = picks[:, labels == label].sum(axis=1)
        assert least <= held.min() <= held.max() <= most
    assert 0.35 < picks.mean(axis=0).min() < picks.mean(axis=0).max() < 0.65
    parts = Design(labels).parts(4)
    assert [len(places) for places in parts] == [25] * 4
    assert len(np.unique(np.concatenate(parts))) == 100
    assert all(13 <= (labels[places] == 4).sum() <= 15 for places in parts)


def test_recall_covers_its_expectation():
    """Halves of few rows reach further than all of them, and the interval is the wider for it."""
    random = np.random.default_rng(1)
    centers = random.normal(size=(10, 6)) * 2
    labels = np.arange(200) % 10
    real = random.normal(size=(400, 6)) + centers[random.integers(0, 10, 400)]
    metric = RecallMetric(Seen(), ReferenceRows(real.astype(np.float32)))
    scores, found = [], []
    for draw in range(200):
        x = (random.normal(size=(200, 6)) * 0.8 + centers[labels]).astype(np.float32)
        scores.append(metric.compute(x))
        found.append(interval(metric, x, scores[-1], Design(labels, 50, draw)))
    covered = [ends.low <= np.mean(scores) <= ends.high for ends in found]
    assert 0.93 < np.mean(covered) < 0.995
    assert 0.95 < np.mean([half_width(ends) for ends in found]) / np.std(scores) < 1.4


@pytest.mark.parametrize("prompts", [1, 10])
@pytest.mark.parametrize("samples", [20, 100, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.98, 0.99])
def test_an_interval_of_a_share_covers_it(share, samples, prompts):
    """92 to 98.5 %, but for sampling: Wilson's coverage jumps, as whole numbers do."""
    labels = np.arange(samples) % prompts
    shares = 1 - (1 - share) * np.linspace(0.2, 1.8, prompts)[labels] if prompts > 1 else share
    random = np.random.default_rng(round(1000 * share) + samples)
    metric, design = MeanMetric(Seen(), "alignment"), Design(labels)
    covered = []
    for _ in range(2000):
        x = (random.random(samples) < shares).astype(np.float32)[:, None]
        found = interval(metric, x, metric.compute(x), design)
        covered.append(found.low <= share <= found.high)
    assert 0.915 < np.mean(covered) < 0.99


def test_an_interval_of_a_share_is_wilsons_and_never_of_no_width():
    """Wilson's for 45 of 50, and the ends for 0 and all of 20: z^2 / (20 + z^2) in closed form."""
    squared = 1.959963985**2
    known = wilson(0.9, np.sqrt(0.9 * 0.1 / 50), 50)
    assert (known.low, known.high) == pytest.approx((0.7864, 0.9565), abs=5e-5)
    edge = squared / (20 + squared)
    for flags, low, high in ((np.ones(20), 1 - edge, 1.0), (np.zeros(20), 0.0, edge)):
        x = flags.astype(np.float32)[:, None]
        found = interval(MeanMetric(Seen(), "alignment"), x, flags[0], one_prompt(x))
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    far = interval(METRICS[3], rows(0, 40) + 100, 0.0, one_prompt(rows(0, 40)))
    assert far.low == pytest.approx(0.0, abs=1e-12)
    assert far.high == pytest.approx(squared / (40 + squared))


def test_shares_that_prompts_decide_are_surer():
    """Half of 10 prompts always obeyed, the others never: nothing is left to chance."""
    labels = np.arange(1000) % 10
    x = (labels < 5).astype(np.float32)[:, None]
    metric = MeanMetric(Seen(), "alignment")
    sure = half_width(interval(metric, x, 0.5, Design(labels)))
    unsure = half_width(interval(metric, x, 0.5, one_prompt(x)))
    assert unsure == pytest.approx(np.sqrt(0.25 / 1000), rel=0.01)
    assert sure == pytest.approx(unsure * np.sqrt(3.84 / 253.84), rel=0.01)  # z^2 rows of 0.25


def test_an_interval_of_a_mean_is_students():
    x = np.array([5.1, 4.8, 6.0, 5.5, 5.2], np.float32)[:, None]
    metric = MeanMetric(Seen(), "aesthetic")
    found = interval(metric, x, metric.compute(x), one_prompt(x))
    known = stats.ttest_1samp(x[:, 0].astype(np.float64), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_equal_seed_equal_interval():
    metric, x = METRICS[4], rows(0)
    score = metric.compute(x)
    one, same, other = (interval(metric, x, score, one_prompt(x, 50, seed)) for seed in (7, 7, 8))
    assert one == same != other


def test_resamples_with_repeats_would_leave_the_score_out():
    """Why halves: few samples and many features, where the bias is larger than the spread."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(80, 40)), random.normal(size=(4000, 40))
    metric = FrechetMetric(Seen(), FeatureStatistics.from_features(y))
    score = metric.compute(x)
    repeated = [metric.compute(x[random.integers(0, 80, 80)]) for _ in range(100)]
    assert np.quantile(repeated, 0.025) > score
    found = interval(metric, x, score, one_prompt(x))
    assert found.low < score < found.high


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
        design = one_prompt(x, seed=seed)
        found = extrapolate(metric, x, design)
        hits += found.interval.low <= limit <= found.interval.high
        biases.append(score - limit)
        found_biases.append(frechet_bias(metric, x, score, design))
        assert found.slope > 0
        assert [size for size, _ in found.points] == [600, 300, 200, 150]
        assert found.points[0][1] == pytest.approx(score)
    assert hits >= 16
    assert np.mean(found_biases) == pytest.approx(np.mean(biases), rel=0.35)


def test_no_bias_is_told_where_a_half_has_no_more_rows_than_features():
    """There the bias is no longer proportional to 1/N."""
    x = rows(0, 2 * DIMENSION + 1)
    assert frechet_bias(METRICS[0], x, 1.0, one_prompt(x)) is None
    x = rows(0, 2 * DIMENSION + 2)
    assert frechet_bias(METRICS[0], x, METRICS[0].compute(x), one_prompt(x)) > 0


def test_bias_where_prompts_repeat_is_of_what_varies():
    """Prompts far apart: of the halves each has its share, or the bias were many times too large.

    The true bias is measured on a hundred times as many samples, which have next to none.
    """
    world = Stratified(200, 10, 2.0, 0.3)
    many = Stratified(20_000, 10, 2.0, 0.3)
    true, found, limits = [], [], []
    for seed in range(60):
        x = world.draw()
        score, design = world.metric.compute(x), Design(world.labels, seed=seed)
        true.append(score)
        found.append(frechet_bias(world.metric, x, score, design))
        limits.append(extrapolate(world.metric, x, design).value)
    limit = world.metric.compute(many.draw())
    assert np.mean(found) == pytest.approx(np.mean(true) - limit, rel=0.25)
    assert np.mean(limits) == pytest.approx(limit, rel=0.1)


def test_too_few_samples_are_told_how_many_it_takes():
    few, x = rows(0, 51), rows(0)
    with pytest.raises(RequestError, match="at least 52 samples, not 51"):
        extrapolate(METRICS[0], few, one_prompt(few))
    with pytest.raises(RequestError, match="recall needs at least 8 samples, not 7"):
        interval(METRICS[4], rows(0, 7), 0.5, one_prompt(rows(0, 7)))
    with pytest.raises(RequestError, match="at least 2 resamples"):
        interval(METRICS[0], x, 0.5, one_prompt(x, 1))
