from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.evaluation import CmmdMetric, KernelMetric, PrecisionMetric, RecallMetric
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.kernels import (
    cubic,
    gaussian,
    kernel_distance,
    mmd_influence,
    subset_places,
)
from workbench.evaluation.manifold import covered_shares, inside, radii
from workbench.evaluation.metrics import ReferenceRows


class Seen(FeatureExtractor):
    """An extractor of rows that are given."""

    name, fingerprint, dimension = "seen", "0", 8


def two_sets(samples=300, real=250, dimension=8, shift=0.4):
    random = np.random.default_rng(1)
    x = random.normal(size=(samples, dimension)) + shift
    y = random.normal(size=(real, dimension)) * 1.2
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("size", [100, 1000])
def test_kid_is_clean_fids_on_the_same_subsets(size):
    fid = pytest.importorskip("cleanfid.fid")
    x, y = (rows.astype(np.float64) for rows in two_sets())
    np.random.seed(3)
    theirs = fid.kernel_distance(y, x, num_subsets=20, max_subset_size=size)
    ours = kernel_distance(x, y, subset_places(300, 250, 3, 20, size))
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_kid_of_one_subset_is_the_unbiased_estimator_by_pairs():
    x, y = two_sets(40, 40)
    kid = kernel_distance(x, y, subset_places(40, 40, 0, 1, 40))

    def k(a, b):
        return (float(a @ b) / 8 + 1) ** 3

    within = sum(
        k(rows[i], rows[j]) for rows in (x, y) for i in range(40) for j in range(40) if i != j
    )
    between = sum(k(a, b) for a in x for b in y)
    assert kid == pytest.approx(within / (40 * 39) - 2 * between / 40**2, rel=1e-5)


def test_cmmd_is_the_authors_formula():
    """gamma = 1 / (2 * 10^2), all pairs with the diagonal, times 1000 (Jayasumana et al. 2024)."""
    x, y = (torch.from_numpy(rows).double() for rows in two_sets())
    mean = [torch.exp(-(torch.cdist(a, b) ** 2) / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    expected = 1000 * (mean[0] + mean[1] - 2 * mean[2]).item()
    metric = CmmdMetric(Seen(), ReferenceRows(y.numpy()))
    assert metric.compute(x.numpy()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kernel", [cubic, gaussian])
def test_influence_on_an_mmd_is_its_derivative_by_a_weight(kernel):
    x, y = (rows.astype(np.float64) for rows in two_sets(60, 50))
    count = len(x)
    xx, xy = kernel(x, x), kernel(x, y)

    def weighted(w):
        return w @ xx @ w / count**2 - 2 * (w @ xy).mean() / count

    influence = mmd_influence(x, y, kernel)
    direction = -np.full(count, 1 / count)
    direction[5] += 1
    slope = (weighted(1 + 1e-5 * direction) - weighted(1 - 1e-5 * direction)) / 2e-5
    assert influence[5] / count == pytest.approx(slope, rel=1e-6)


def brute_force(rows, manifold):
    """Share of rows within a manifold, by loops and square roots."""
    reach = []
    for i, a in enumerate(manifold):
        others = sorted(np.linalg.norm(a - b) for j, b in enumerate(manifold) if j != i)
        reach.append(others[2])
    held = [
        any(np.linalg.norm(row - a) <= r for a, r in zip(manifold, reach, strict=True))
        for row in rows
    ]
    return float(np.mean(held))


def test_precision_and_recall_are_those_of_brute_force(monkeypatch):
    monkeypatch.setattr("workbench.evaluation.manifold._BLOCK", 37)
    x, y = two_sets(110, 90, 3, shift=1.2)
    x, y = x.astype(np.float64), y.astype(np.float64)
    reference = ReferenceRows(y)
    precision = PrecisionMetric(Seen(), reference).compute(x)
    recall = RecallMetric(Seen(), reference).compute(x)
    assert precision == brute_force(x, y)
    assert recall == brute_force(y, x)
    assert 0.05 < recall < precision < 0.95 or 0.05 < precision < recall < 0.95


def test_recall_of_subsets_is_recall_of_each_subset():
    x, y = two_sets(200, 150, 4, shift=0.8)
    picks = np.random.default_rng(0).random((6, 200)) < 0.5
    shares = covered_shares(y, x, picks)
    expected = [inside(y, x[pick], radii(x[pick])).mean() for pick in picks]
    np.testing.assert_array_equal(shares, expected)
    assert len(set(shares)) > 1


def test_kid_metric_names_its_subsets_and_its_seed():
    x, y = two_sets()
    one, two = (KernelMetric(Seen(), ReferenceRows(y), seed=seed) for seed in (0, 1))
    assert one.ingredients != two.ingredients
    assert one.compute(x) == one.compute(x) != KernelMetric(Seen(), ReferenceRows(x)).compute(x)
