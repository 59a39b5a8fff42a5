"""The Frechet distance between feature distributions, in float64.

Samples may be many: they are read in blocks and centred before anything is multiplied, so that
memory is that of D x D matrices and large features lose no digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation.feature_table import blocks
from workbench.evaluation.grids import NotFiniteError

Array = NDArray[np.float64]

_REFERENCE_BLOCK = 4096
"""Rows of a reference in float64 at a time. Its statistics' bits are part of every protocol."""
_FAR = 100.0
"""Mean over standard deviation from which on a sum of squares loses digits that matter."""


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Mean (D,) and unbiased covariance (D, D) of ``count`` feature rows, float64.

    ``known_factor`` is the root of the covariance where it was computed before.
    """

    mean: Array
    covariance: Array
    count: int
    known_factor: Array | None = None

    @classmethod
    def from_features(cls, features: Tensor | NDArray[Any]) -> FeatureStatistics:
        """Statistics of feature rows (N, D), N >= 2, summed in blocks.

        Where any feature is far from zero for its spread, they are summed a second time around
        their mean. All others keep the bits, and so the fingerprint, that they always had.

        Raises:
            RequestError: fewer than two rows.
            WorkbenchError: a feature is not finite.
        """
        rows = _checked(features)
        shift = np.zeros(rows.shape[1])
        total, outer = _moments(rows, shift)
        mean = total / len(rows)
        variance = np.diag(outer) / len(rows) - mean**2
        if (mean**2 > _FAR**2 * variance).any():
            shift = mean
            total, outer = _moments(rows, shift)
            mean = total / len(rows)
        scatter = outer - np.outer(total, mean)
        scatter = (scatter + scatter.T) / 2.0
        return cls(shift + mean, scatter / (len(rows) - 1), len(rows))

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the numbers themselves; equal bits, equal hash."""
        digest = hashlib.sha256(str(self.count).encode())
        digest.update(np.ascontiguousarray(self.mean).tobytes())
        digest.update(np.ascontiguousarray(self.covariance).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def factor(self) -> Array:
        """L (D, rank); eigenvalues at or below rounding count as zero."""
        if self.known_factor is not None:
            return self.known_factor
        values, vectors = np.linalg.eigh(self.covariance)
        rounding = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
        kept = values > rounding
        root: Array = vectors[:, kept] * np.sqrt(values[kept])
        return root

    @property
    def trace(self) -> float:
        return float(np.trace(self.covariance))

    def overlap(self, factor: Array) -> Array:
        """L^T factor (rank, R), as :meth:`CentredRows.overlap`."""
        return self.factor.T @ factor


class CentredRows:
    """The Gaussian of feature rows (N, D), which stay where they are and are read in blocks.

    With N <= D the centred rows are a root of their covariance themselves, and none is made.

    Raises:
        RequestError: fewer than two rows.
        WorkbenchError: a feature is not finite.
    """

    def __init__(self, features: Tensor | NDArray[Any]) -> None:
        self._rows = _checked(features)
        self.mean = _mean(self._rows)

    @cached_property
    def trace(self) -> float:
        """Of the covariance."""
        return sum(float((block**2).sum()) for block in self._scaled())

    def overlap(self, factor: Array) -> Array:
        """A matrix with the singular values of L^T factor, L L^T = covariance; factor (D, R).

        X factor (N, R) of centred rows X / sqrt(N - 1); L^T factor (D, R) where N > D.
        """
        count, dimension = self._rows.shape
        if count > dimension:
            values, vectors = _eigen(self.gram())
            rounding = dimension * np.finfo(np.float64).eps * max(values[-1], 0.0)
            vectors *= np.sqrt(np.where(values > rounding, values, 0.0))
            root: Array = vectors.T @ factor
            return root
        return self.each(lambda x: x @ factor)

    def gram(self, factor: Array | None = None) -> Array:
        """The upper triangle of M^T M, M = X factor, (R, R); of X itself, the covariance (D, D)."""
        from scipy.linalg.blas import dsyrk

        columns = self._rows.shape[1] if factor is None else factor.shape[1]
        total: Array = np.zeros((columns, columns), order="F")
        for block in self._scaled():
            seen = block if factor is None else block @ factor
            total = dsyrk(1.0, seen.T, beta=1.0, c=total, overwrite_c=True)
        return total

    def each(self, function: Callable[[Array], Array]) -> Array:
        """A function of rows of X, (B, D) -> (B, ...), for all of them, (N, ...)."""
        return np.concatenate([function(block) for block in self._scaled()])

    def _scaled(self) -> Iterator[Array]:
        """X in blocks."""
        for _, block in blocks(self._rows):
            block -= self.mean
            block /= np.sqrt(len(self._rows) - 1)
            yield block


def _eigen(upper: Array) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and vectors in columns, of an upper triangle, which is overwritten.

    "evr" needs no more than the two matrices; numpy's solver takes two more.
    """
    from scipy.linalg import eigh

    values, vectors = eigh(upper, lower=False, driver="evr", overwrite_a=True)
    return values, vectors


def frechet_distance(a: FeatureStatistics | CentredRows, b: FeatureStatistics) -> float:
    """|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; FID: Heusel et al. 2017).

    The trace of the root is the sum of the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2). With
    any S = L L^T those roots are the singular values of L1^T L2, taken directly: squaring them
    first would turn rounding of 1e-16 into errors of 1e-8 in every direction that rank-deficient
    features leave empty.

    Returns:
        The distance, at least 0.

    Raises:
        ValueError: the dimensions differ.
        WorkbenchError: a statistic is not finite.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Feature dimensions differ: {a.mean.shape[0]} and {b.mean.shape[0]}")
    if not all(np.isfinite(side.mean).all() and np.isfinite(side.trace) for side in (a, b)):
        raise WorkbenchError("Feature statistics are not finite: no Frechet distance.")
    difference = a.mean - b.mean
    root = _nuclear_norm(a.overlap(b.factor))
    return max(0.0, float(difference @ difference + a.trace + b.trace - 2.0 * root))


def _nuclear_norm(matrix: Array) -> float:
    """The sum of the singular values; the matrix is overwritten."""
    from scipy.linalg import svdvals

    return float(svdvals(matrix, overwrite_a=True).sum()) if matrix.size else 0.0


def frechet_influence(features: NDArray[Any], reference: FeatureStatistics) -> Array:
    """How much each row moves the distance to the reference, (N,), to first order.

    With weights w_i (summing to N) on the rows, the distance is d(w) = d(1) + mean_i (w_i - 1)
    influence_i + O((w - 1)^2). For the trace of the root, T(w) = |L^T X diag(w)^(1/2)|_* with
    centred rows X and the reference's root L, the derivative by w_i is half the diagonal of
    (M^T M)^(1/2), M = L^T X / sqrt(N - 1); moving the mean changes T only at second order.

    Raises:
        RequestError: fewer than two rows.
        WorkbenchError: a feature is not finite.
    """
    rows, count = CentredRows(features), len(features)
    shift = 2.0 * np.sqrt(count - 1) * (rows.mean - reference.mean)
    moved = rows.each(lambda x: x @ shift + count * (x**2).sum(axis=1))
    influence: Array = moved - count * _root_diagonal(rows, reference.factor, count)
    influence -= influence.mean()
    return influence


def _root_diagonal(rows: CentredRows, factor: Array, count: int) -> Array:
    """Diagonal of (M M^T)^(1/2), (N,), of M = X factor."""
    if factor.shape[1] >= count:
        seen = rows.each(lambda x: x @ factor)
        values, vectors = np.linalg.eigh(seen @ seen.T)
        few: Array = (vectors**2) @ np.sqrt(np.clip(values, 0.0, None))
        return few
    values, vectors = _eigen(rows.gram(factor))
    values = np.sqrt(np.clip(values, 0.0, None))
    weights = 1.0 / np.where(values > values[-1] * 1e-7, values, np.inf)
    turned = factor @ vectors
    return rows.each(lambda x: ((x @ turned) ** 2) @ weights)


def _mean(rows: NDArray[Any]) -> Array:
    """Of rows as they lie around the first: far from zero, sums of the rows would lose digits."""
    first = np.array(rows[0], np.float64)
    total = np.zeros(len(first))
    for _, block in blocks(rows):
        total += (block - first).sum(axis=0)
    mean: Array = first + total / len(rows)
    return mean


def _moments(rows: NDArray[Any], shift: Array) -> tuple[Array, Array]:
    """Sums of rows minus a shift (D,), and of their outer products (D, D)."""
    total = np.zeros(rows.shape[1])
    outer = np.zeros((rows.shape[1], rows.shape[1]))
    for _, block in blocks(rows, _REFERENCE_BLOCK):
        block -= shift
        total += block.sum(axis=0)
        outer += block.T @ block
    return total, outer


def _checked(features: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Rows (N >= 2, D) of any float type, finite."""
    if isinstance(features, Tensor):
        features = features.detach().cpu().numpy()
    rows = np.asanyarray(features)
    if rows.ndim != 2:
        raise ValueError(f"Features must be rows (N, D), not of shape {rows.shape}")
    if len(rows) < 2:
        raise RequestError(
            f"Feature statistics need at least 2 samples, not {len(rows)}: one has no covariance."
        )
    if not all(np.isfinite(block).all() for _, block in blocks(rows)):
        raise NotFiniteError("The features of some images are not finite: no score.")
    return rows
