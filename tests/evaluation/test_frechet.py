from __future__ import annotations

import dataclasses
import functools
import tracemalloc
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.linalg
import torch

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import FeatureStatistics, frechet_distance
from workbench.evaluation.feature_table import mapped
from workbench.evaluation.frechet import CentredRows, frechet_influence


def correlated(rng, count, dimension, mean=0.0):
    mix = rng.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    return rng.normal(size=(count, dimension)) @ mix + mean


# N x N, N x D: full rank, and one or both sides with fewer samples than dimensions.
CASES = [
    (500, 400, 32),
    (600, 500, 64),
    (40, 50, 64),
    (30, 400, 64),
    (400, 20, 64),
    (60, 50, 128),
]


@pytest.fixture
def clean_fid(monkeypatch):
    """clean-fid's own function, under a SciPy that may lack the argument it passes."""
    fid = pytest.importorskip("cleanfid.fid")
    stock = scipy.linalg.sqrtm

    @functools.wraps(stock)
    def sqrtm(matrix, disp=True):
        root = stock(matrix)
        return root if disp else (root, np.nan)

    monkeypatch.setattr(fid.linalg, "sqrtm", sqrtm)
    return fid.frechet_distance


@pytest.mark.parametrize(("n", "m", "dimension"), CASES)
def test_equals_clean_fid(clean_fid, n, m, dimension):
    rng = np.random.default_rng(n)
    a = FeatureStatistics.from_features(correlated(rng, n, dimension))
    b = FeatureStatistics.from_features(correlated(rng, m, dimension, mean=0.3))
    theirs = clean_fid(a.mean, a.covariance, b.mean, b.covariance)
    assert frechet_distance(a, b) == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "dimension"), CASES)
def test_equals_the_nuclear_norm_of_the_samples_themselves(n, m, dimension):
    """Without any covariance: Tr (S1 S2)^(1/2) is the nuclear norm of X Y^T, X and Y centred."""
    rng = np.random.default_rng(m)
    x, y = correlated(rng, n, dimension), correlated(rng, m, dimension, mean=0.1)
    a, b = FeatureStatistics.from_features(x), FeatureStatistics.from_features(y)
    shift = ((x.mean(0) - y.mean(0)) ** 2).sum()
    x, y = (x - x.mean(0)) / np.sqrt(n - 1), (y - y.mean(0)) / np.sqrt(m - 1)
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    expected = shift + (x**2).sum() + (y**2).sum() - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-10)


def test_commuting_gaussians_in_closed_form():
    """S1, S2 with common eigenvectors: |m1 - m2|^2 + sum (sqrt(l1) - sqrt(l2))^2."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    first, second = rng.uniform(0, 3, 12), rng.uniform(0, 3, 12)
    first[:4] = 0.0  # a degenerate side: the limit of the same formula
    mean = rng.normal(size=12)
    a = FeatureStatistics(mean, (basis * first) @ basis.T, 100)
    b = FeatureStatistics(np.zeros(12), (basis * second) @ basis.T, 100)
    expected = mean @ mean + ((np.sqrt(first) - np.sqrt(second)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_a_shift_alone_costs_its_square_and_a_point_mass_the_trace():
    features = correlated(np.random.default_rng(1), 300, 8)
    here, there = (FeatureStatistics.from_features(features + shift) for shift in (0.0, 2.0))
    assert frechet_distance(here, there) == pytest.approx(8 * 4.0, rel=1e-10)
    point = FeatureStatistics(here.mean, np.zeros((8, 8)), 300)
    assert frechet_distance(here, point) == pytest.approx(np.trace(here.covariance), rel=1e-12)


def test_statistics_are_numpys():
    features = correlated(np.random.default_rng(2), 50, 7, mean=100.0).astype(np.float32)
    statistics = FeatureStatistics.from_features(torch.from_numpy(features))
    exact = features.astype(np.float64)
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(statistics.covariance, np.cov(exact.T), rtol=1e-9, atol=1e-9)
    assert statistics.mean.dtype == statistics.covariance.dtype == np.float64
    assert statistics.count == 50


def test_statistics_do_not_depend_on_the_blocks(monkeypatch):
    features = correlated(np.random.default_rng(3), 997, 16, mean=3.0)
    whole = FeatureStatistics.from_features(features)
    monkeypatch.setattr("workbench.evaluation.frechet._REFERENCE_BLOCK", 100)
    parts = FeatureStatistics.from_features(features)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-12)


@pytest.mark.parametrize("count", [40, 64, 65, 200])
def test_rows_and_their_covariance_give_the_same_distance(count):
    """Few rows stand for their covariance themselves; many do not."""
    rng = np.random.default_rng(count)
    reference = FeatureStatistics.from_features(correlated(rng, 300, 64))
    rows = correlated(rng, count, 64, mean=0.2)
    short = CentredRows(rows)
    statistics = FeatureStatistics.from_features(rows)
    expected = frechet_distance(statistics, reference)
    assert frechet_distance(short, reference) == pytest.approx(expected, rel=1e-10)
    known = dataclasses.replace(reference, known_factor=reference.factor)
    assert frechet_distance(short, known) == frechet_distance(short, reference)


@pytest.mark.parametrize(("count", "dimension"), [(300, 12), (40, 60)])
def test_influence_is_the_derivative_by_a_rows_weight(count, dimension):
    rng = np.random.default_rng(5)
    reference = FeatureStatistics.from_features(correlated(rng, 400, dimension))
    rows = correlated(rng, count, dimension, mean=0.3)

    def weighted(weights):
        """The distance of rows with weights that sum to N."""
        mean = weights @ rows / count
        centred = (rows - mean) * np.sqrt(weights / (count - 1))[:, None]
        covariance = centred.T @ centred
        return frechet_distance(FeatureStatistics(mean, covariance, count), reference)

    influence = frechet_influence(rows, reference)
    assert abs(influence.mean()) < 1e-10
    for place in (0, 7, count - 1):
        direction = -np.full(count, 1.0 / count)
        direction[place] += 1.0
        step = 1e-4
        slope = (weighted(1 + step * direction) - weighted(1 - step * direction)) / (2 * step)
        assert influence[place] / count == pytest.approx(slope, rel=1e-3, abs=1e-7)


def test_fingerprint_is_of_the_numbers():
    features = correlated(np.random.default_rng(4), 20, 3)
    known = FeatureStatistics.from_features(features)
    assert known.fingerprint == FeatureStatistics.from_features(features.copy()).fingerprint
    others = [
        FeatureStatistics(np.nextafter(known.mean, 9), known.covariance, 20),
        FeatureStatistics(known.mean, np.nextafter(known.covariance, 9), 20),
        FeatureStatistics(known.mean, known.covariance, 21),
    ]
    assert len({known.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_too_few_samples_or_bad_features_give_an_error_not_a_score():
    with pytest.raises(RequestError, match="at least 2 samples, not 1"):
        FeatureStatistics.from_features(np.ones((1, 4)))
    with pytest.raises(RequestError, match="not 0"):
        CentredRows(np.ones((0, 4)))
    with pytest.raises(WorkbenchError, match="not finite"):
        FeatureStatistics.from_features(np.array([[1.0, 2.0], [np.nan, 0.0]]))
    good = FeatureStatistics.from_features(np.eye(4))
    with pytest.raises(WorkbenchError, match="not finite"):
        frechet_distance(good, FeatureStatistics(good.mean * np.inf, good.covariance, 4))
    with pytest.raises(ValueError, match="dimensions differ"):
        frechet_distance(good, FeatureStatistics.from_features(np.eye(5)))


def test_far_from_zero_no_digits_are_lost():
    """At an offset of 1e6 sums of squares would keep 4 digits of a variance of 1."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 16)), rng.normal(size=(3000, 16)) * 1.2 + 0.1
    here = frechet_distance(CentredRows(x), FeatureStatistics.from_features(y))
    assert here == pytest.approx(0.99941743639, rel=1e-10)
    for offset in (50.0, 1e3, -1e4, 1e6):
        near, far = (FeatureStatistics.from_features(rows + offset) for rows in (x, y))
        assert frechet_distance(CentredRows(x + offset), far) == pytest.approx(here, rel=1e-10)
        assert frechet_distance(near, far) == pytest.approx(here, rel=1e-10)
    np.testing.assert_allclose(far.covariance, np.cov(y.T), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(far.mean, y.mean(axis=0) + 1e6, rtol=1e-15)
    moved = frechet_influence(x + 1e6, far)
    near = frechet_influence(x, FeatureStatistics.from_features(y))
    np.testing.assert_allclose(moved, near, atol=1e-8 * np.abs(near).max())


def test_one_far_feature_beside_a_wide_one_loses_no_digits():
    """The wide one is alike on both sides, so that the distance is all of the others'."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(400, 4)), rng.normal(size=(400, 4)) * 1.2
    x[:, 0] = y[:, 0] = rng.normal(size=400) * 1e4
    here, there = (
        frechet_distance(CentredRows(x + offset), FeatureStatistics.from_features(y + offset))
        for offset in (0.0, np.array([0.0, 1e6, 0.0, 0.0]))
    )
    assert here < 1
    assert there == pytest.approx(here, abs=1e-7)


@pytest.mark.parametrize("count", [300, 20_000])
def test_far_float32_rows_lose_no_more_than_their_own_rounding(count):
    """Sixteenths up to 16 are exact in float32 at 1e6 too; other features round there."""
    rng = np.random.default_rng(count)
    x, y = (np.round(rng.normal(size=(n, 12)) * 16) / 16 for n in (count, 2000))
    near, far = (
        frechet_distance(
            CentredRows(mapped([(0, (x + offset).astype(np.float32))], count)),
            FeatureStatistics.from_features(torch.from_numpy((y + offset).astype(np.float32))),
        )
        for offset in (0.0, 1e6)
    )
    np.testing.assert_array_equal((x + 1e6).astype(np.float32) - np.float32(1e6), x)
    assert far == pytest.approx(near, rel=1e-9)


@pytest.mark.parametrize("offset", [0, 10**6])
def test_equals_forty_digits(offset):
    """Two features: Tr (S1 S2)^(1/2) = sqrt(Tr S1 S2 + 2 sqrt(det S1 det S2)), exact sums."""
    rng = np.random.default_rng(3)
    sides = [
        (rng.normal(size=(n, 2)) @ rng.normal(size=(2, 2)) + mean).round(3) + offset
        for n, mean in ((40, 0.0), (70, 0.5))
    ]

    def moments(rows):
        exact = [[Decimal(float(value)) for value in row] for row in rows]
        mean = [sum(column) / len(exact) for column in zip(*exact, strict=True)]
        centred = [[value - m for value, m in zip(row, mean, strict=True)] for row in exact]
        return mean, [
            [sum(row[i] * row[j] for row in centred) / (len(exact) - 1) for j in (0, 1)]
            for i in (0, 1)
        ]

    with localcontext() as context:
        context.prec = 60
        (m, s), (n, t) = map(moments, sides)
        product = sum(s[i][j] * t[j][i] for i in (0, 1) for j in (0, 1))
        determinants = [c[0][0] * c[1][1] - c[0][1] * c[1][0] for c in (s, t)]
        root = (product + 2 * (determinants[0] * determinants[1]).sqrt()).sqrt()
        apart = sum((a - b) ** 2 for a, b in zip(m, n, strict=True))
        expected = float(apart + s[0][0] + s[1][1] + t[0][0] + t[1][1] - 2 * root)
    x, y = sides
    found = frechet_distance(CentredRows(x), FeatureStatistics.from_features(y))
    assert found == pytest.approx(expected, rel=1e-13 if offset == 0 else 1e-9)


def test_a_reference_keeps_the_fingerprint_that_it_always_had():
    """Sums of whole numbers are exact on every machine; the hash is in protocols of old runs."""
    whole = np.random.default_rng(0).integers(-8, 9, size=(100, 5)).astype(np.float32)
    assert FeatureStatistics.from_features(whole).fingerprint == "6b965bc515367529"


@pytest.mark.parametrize("count", [100, 3000])
def test_mapped_rows_score_as_rows_in_memory_and_whatever_the_blocks(count, monkeypatch):
    rng = np.random.default_rng(count)
    plain = correlated(rng, count, 48, mean=0.4).astype(np.float32)
    reference = FeatureStatistics.from_features(correlated(rng, 900, 48))
    rows = mapped([(0, plain[:77]), (77, plain[77:])], count)
    distance = frechet_distance(CentredRows(rows), reference)
    influence = frechet_influence(rows, reference)
    assert frechet_distance(CentredRows(plain), reference) == distance
    np.testing.assert_array_equal(frechet_influence(plain, reference), influence)
    covariance = FeatureStatistics.from_features(plain)
    assert distance == pytest.approx(frechet_distance(covariance, reference), rel=1e-11)
    monkeypatch.setattr("workbench.evaluation.feature_table._BLOCK_VALUES", 61 * 48)
    again = frechet_distance(CentredRows(rows), reference)
    assert again == pytest.approx(distance, rel=1e-12)
    np.testing.assert_allclose(
        frechet_influence(rows, reference), influence, atol=1e-9 * np.abs(influence).max()
    )


def peak_bytes(work):
    """What numpy holds at the worst moment of a call."""
    tracemalloc.start()
    work()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_samples():
    """Seven times as many rows are 35 MB more; a few numbers a row are the answer itself."""
    rng = np.random.default_rng(1)
    reference = FeatureStatistics.from_features(correlated(rng, 300, 256))
    reference.factor  # noqa: B018
    rows = [
        mapped(((s, rng.normal(size=(1000, 256)).astype(np.float32)) for s in range(0, n, 1000)), n)
        for n in (6000, 40000)
    ]
    frechet_influence(rows[0], reference)  # imports
    few, many = (peak_bytes(lambda x=x: frechet_distance(CentredRows(x), reference)) for x in rows)
    assert many < few + 50_000
    few, many = (peak_bytes(lambda x=x: frechet_influence(x, reference)) for x in rows)
    assert many < few + 8 * 8 * 34_000
