"""The Frechet distance between feature distributions, in float64, and its mergeable sums."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (D,) and unbiased covariance (D, D) of ``count`` feature rows, float64."""

    mean: Array
    covariance: Array
    count: int

    @classmethod
    def from_features(cls, features: Tensor | NDArray[Any]) -> FeatureStatistics:
        """Statistics of feature rows (N, D), N >= 2.

        Raises:
            RequestError: fewer than two rows.
            WorkbenchError: a feature is not finite.
        """
        sums = FeatureSums()
        sums.update(features)
        return sums.statistics()

    @property
    def fingerprint(self) -> str:
        """Short hash of the numbers themselves; equal bits, equal hash."""
        digest = hashlib.sha256(str(self.count).encode())
        digest.update(np.ascontiguousarray(self.mean).tobytes())
        digest.update(np.ascontiguousarray(self.covariance).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def factor(self) -> Array:
        """L (D, rank) with L L^T = covariance; eigenvalues at or below rounding count as zero."""
        values, vectors = np.linalg.eigh(self.covariance)
        rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        kept = values > rounding
        root: Array = vectors[:, kept] * np.sqrt(values[kept])
        return root


@dataclass
class _CompensatedSum:
    """A running sum kept as an unevaluated pair high + low (Knuth's TwoSum, about 106 bits).

    Plain float64 sums depend on their order in the last bits; these do not once rounded, so that
    ranks may merge in any grouping and still give the score of one process.
    """

    high: Array
    low: Array

    def add(self, high: Array, low: Array | float = 0.0) -> None:
        total = self.high + high
        shadow = total - self.high
        error = (self.high - (total - shadow)) + (high - shadow)
        low = self.low + low + error
        self.high = total + low
        self.low = low - (self.high - total)


@dataclass
class FeatureSums:
    """Streaming sums from which the statistics of any number of feature rows follow.

    Holds the count, the sum and the sum of outer products; small enough to gather from ranks.
    """

    count: int = 0
    _sum: _CompensatedSum | None = field(default=None, repr=False)
    _outer: _CompensatedSum | None = field(default=None, repr=False)

    def update(self, features: Tensor | NDArray[Any]) -> None:
        """Add feature rows (N, D) of any float type.

        Raises:
            ValueError: not a matrix, or another D than before.
            WorkbenchError: a feature is not finite.
        """
        rows = _rows(features)
        if not np.isfinite(rows).all():
            raise WorkbenchError("The features of some images are not finite: no score.")
        self._add(len(rows), _exact(rows.sum(axis=0)), _exact(rows.T @ rows))

    def merge(self, other: FeatureSums) -> None:
        """Add the rows that ``other`` has seen."""
        if other._sum is not None and other._outer is not None:
            self._add(other.count, other._sum, other._outer)

    def statistics(self) -> FeatureStatistics:
        """Mean and covariance of everything added.

        Raises:
            RequestError: fewer than two rows, of which no covariance exists.
        """
        if self._sum is None or self._outer is None or self.count < 2:
            raise RequestError(
                f"Feature statistics need at least 2 samples, not {self.count}: "
                "one has no covariance."
            )
        mean = self._sum.high / self.count
        scatter = self._outer.high - np.outer(self._sum.high, mean)
        scatter = (scatter + scatter.T) / 2.0
        return FeatureStatistics(mean, scatter / (self.count - 1), self.count)

    def _add(self, count: int, total: _CompensatedSum, outer: _CompensatedSum) -> None:
        if self._sum is None or self._outer is None:
            self._sum = _exact(np.zeros_like(total.high))
            self._outer = _exact(np.zeros_like(outer.high))
        if self._sum.high.shape != total.high.shape:
            raise ValueError(
                f"Features have dimension {total.high.shape[0]}, before {self._sum.high.shape[0]}"
            )
        self.count += count
        self._sum.add(total.high, total.low)
        self._outer.add(outer.high, outer.low)


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; FID: Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2). With
    S = L L^T from each covariance's eigenvectors those roots are the singular values of L1^T L2,
    taken directly: squaring them first would turn rounding of 1e-16 into errors of 1e-8 in every
    direction that rank-deficient features leave empty.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: the dimensions differ.
        WorkbenchError: a statistic is not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Feature dimensions differ: {a.mean.shape[0]} and {b.mean.shape[0]}")
    for statistics in (a, b):
        if not (np.isfinite(statistics.mean).all() and np.isfinite(statistics.covariance).all()):
            raise WorkbenchError("Feature statistics are not finite: no Frechet distance.")
    difference = a.mean - b.mean
    overlap = a.factor.T @ b.factor
    root = np.linalg.svd(overlap, compute_uv=False).sum() if overlap.size else 0.0
    distance = difference @ difference + np.trace(a.covariance) + np.trace(b.covariance)
    return max(0.0, float(distance - 2.0 * root))


def _exact(values: Array) -> _CompensatedSum:
    return _CompensatedSum(values, np.zeros_like(values))


def _rows(features: Tensor | NDArray[Any]) -> Array:
    if isinstance(features, Tensor):
        features = features.detach().to("cpu", torch.float64).numpy()
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2:
        raise ValueError(f"Features must be rows (N, D), not of shape {rows.shape}")
    return rows
