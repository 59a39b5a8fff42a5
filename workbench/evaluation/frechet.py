"""The Frechet distance between feature distributions, in float64."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation.grids import NotFiniteError

Array = NDArray[np.float64]

_BLOCK = 4096  # rows in float64 at a time


class Gaussian(Protocol):
    """A normal distribution over D features as its mean and any root of its covariance."""

    @property
    def mean(self) -> Array:
        """(D,)."""
        ...

    @property
    def factor(self) -> Array:
        """L (D, any number of columns) with L L^T = covariance."""
        ...

    @property
    def trace(self) -> float:
        """Of the covariance."""
        ...


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

        Raises:
            RequestError: fewer than two rows.
            WorkbenchError: a feature is not finite.
        """
        rows = _checked(features)
        total = np.zeros(rows.shape[1])
        outer = np.zeros((rows.shape[1], rows.shape[1]))
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK].astype(np.float64)
            total += block.sum(axis=0)
            outer += block.T @ block
        mean = total / len(rows)
        scatter = outer - np.outer(total, mean)
        scatter = (scatter + scatter.T) / 2.0
        return cls(mean, scatter / (len(rows) - 1), len(rows))

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


class CentredRows:
    """The Gaussian of fewer rows than features: the centred rows are a root of the covariance.

    No covariance (D, D) is ever made, and nothing is decomposed.
    """

    def __init__(self, features: Tensor | NDArray[Any]) -> None:
        rows = _checked(features).astype(np.float64)
        self.mean: Array = rows.mean(axis=0)
        self.factor: Array = (rows - self.mean).T / np.sqrt(len(rows) - 1)

    @property
    def trace(self) -> float:
        return float((self.factor**2).sum())


def gaussian_of(features: Tensor | NDArray[Any]) -> Gaussian:
    """The cheaper form of feature rows (N, D): the rows themselves where N <= D.

    Raises:
        RequestError: fewer than two rows.
        WorkbenchError: a feature is not finite.
    """
    count, dimension = features.shape
    return (
        CentredRows(features) if count <= dimension else FeatureStatistics.from_features(features)
    )


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
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
    overlap = a.factor.T @ b.factor
    root = torch.linalg.svdvals(torch.from_numpy(overlap)).sum().item() if overlap.size else 0.0
    return max(0.0, float(difference @ difference + a.trace + b.trace - 2.0 * root))


def frechet_influence(features: NDArray[Any], reference: Gaussian) -> Array:
    """How much each row moves the distance to the reference, (N,), to first order.

    With weights w_i (summing to N) on the rows, the distance is d(w) = d(1) + mean_i (w_i - 1)
    influence_i + O((w - 1)^2). For the trace of the root, T(w) = |L^T X diag(w)^(1/2)|_* with
    centred rows X and the reference's root L, the derivative by w_i is half the diagonal of
    (M^T M)^(1/2), M = L^T X / sqrt(N - 1); moving the mean changes T only at second order.

    Raises:
        RequestError: fewer than two rows.
        WorkbenchError: a feature is not finite.
    """
    rows = _checked(features).astype(np.float64)
    count = len(rows)
    centred = rows - rows.mean(axis=0)
    shift = rows.mean(axis=0) - reference.mean
    overlap = centred @ reference.factor / np.sqrt(count - 1)
    if overlap.shape[1] < count:
        values, vectors = np.linalg.eigh(overlap.T @ overlap)
        values = np.sqrt(np.clip(values, 0.0, None))
        safe = np.where(values > values[-1] * 1e-7, values, np.inf)
        diagonal = (((overlap @ vectors) ** 2) / safe).sum(axis=1)
    else:
        values, vectors = np.linalg.eigh(overlap @ overlap.T)
        diagonal = (vectors**2) @ np.sqrt(np.clip(values, 0.0, None))
    trace = (centred**2).sum(axis=1) / (count - 1)
    influence: Array = 2.0 * (centred @ shift) + count * (trace - diagonal)
    influence -= influence.mean()
    return influence


def _checked(features: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Rows (N >= 2, D) of any float type, finite."""
    if isinstance(features, Tensor):
        features = features.detach().cpu().numpy()
    rows = np.asarray(features)
    if rows.ndim != 2:
        raise ValueError(f"Features must be rows (N, D), not of shape {rows.shape}")
    if len(rows) < 2:
        raise RequestError(
            f"Feature statistics need at least 2 samples, not {len(rows)}: one has no covariance."
        )
    if not np.isfinite(rows).all():
        raise NotFiniteError("The features of some images are not finite: no score.")
    return rows
