from __future__ import annotations

import functools

import numpy as np
import pytest
import scipy.linalg
import torch

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import FeatureStatistics, FeatureSums, frechet_distance
from workbench.teachers._torchvision import prepare_torchvision


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
    prepare_torchvision()
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


def test_shards_merge_to_the_same_bits_in_any_order():
    features = correlated(np.random.default_rng(3), 997, 16, mean=1e3)
    parts = np.array_split(features, 37)
    whole = FeatureSums()
    for part in parts:
        whole.update(part)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(37)
        shards = [FeatureSums() for _ in range(5)]
        for place, index in enumerate(order):
            shards[place % 5].update(parts[index])
        merged = FeatureSums()
        for shard in [FeatureSums(), *shards]:
            merged.merge(shard)
        assert merged.statistics().fingerprint == whole.statistics().fingerprint
    at_once = FeatureStatistics.from_features(features)
    np.testing.assert_allclose(whole.statistics().covariance, at_once.covariance, atol=1e-8)


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
        FeatureSums().statistics()
    with pytest.raises(WorkbenchError, match="not finite"):
        FeatureStatistics.from_features(np.array([[1.0, 2.0], [np.nan, 0.0]]))
    good = FeatureStatistics.from_features(np.eye(4))
    with pytest.raises(WorkbenchError, match="not finite"):
        frechet_distance(good, FeatureStatistics(good.mean * np.inf, good.covariance, 4))
    with pytest.raises(ValueError, match="dimensions differ"):
        frechet_distance(good, FeatureStatistics.from_features(np.eye(5)))
    sums = FeatureSums()
    sums.update(np.eye(4))
    with pytest.raises(ValueError, match="dimension 5, before 4"):
        sums.update(np.eye(5))
