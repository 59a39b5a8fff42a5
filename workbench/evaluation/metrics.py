"""Scores as functions of the rows that an observer saw, and what resampling does to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation import kernels, manifold
from workbench.evaluation.frechet import (
    FeatureStatistics,
    frechet_distance,
    frechet_influence,
    gaussian_of,
)
from workbench.evaluation.observations import Rows
from workbench.evaluation.observers import Observer, observer_key

Array = NDArray[np.float64]
Picks = NDArray[np.bool_]


class Metric(Protocol):
    """One score of all rows of one observer, by its name in ``workbench.metrics``.

    ``ingredients`` names by hash everything besides the samples that decides the score.
    """

    @property
    def name(self) -> str: ...

    @property
    def observer(self) -> Observer: ...

    @property
    def ingredients(self) -> Mapping[str, str]: ...

    def compute(self, rows: Rows) -> float:
        """The score of rows (N, D), one a sample, in sample order."""
        ...

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        """The score of each subset of the rows: picks (B, N) -> (B,), to first order at least."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """What an observer saw in the real images: rows (M, D); statistics where known before."""

    rows: Rows
    known_statistics: FeatureStatistics | None = None

    @cached_property
    def statistics(self) -> FeatureStatistics:
        return self.known_statistics or FeatureStatistics.from_features(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the rows themselves."""
        digest = hashlib.sha256(str(self.rows.shape).encode())
        digest.update(np.ascontiguousarray(self.rows).tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def radii(self) -> Array:
        """Squared distance of every row to its k-th neighbour, (M,)."""
        return manifold.radii(self.rows)


@dataclass(frozen=True)
class FrechetMetric:
    """Frechet distance of features to a reference (FID, Heusel et al. 2017)."""

    observer: Observer
    reference: FeatureStatistics
    name: str = "fid"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": observer_key(self.observer),
            "reference": self.reference.fingerprint,
        }

    def compute(self, rows: Rows) -> float:
        return frechet_distance(gaussian_of(rows), self.reference)

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        return _linear(self.compute(rows), frechet_influence(rows, self.reference), picks)


@dataclass(frozen=True)
class KernelMetric:
    """KID (Binkowski et al. 2018): clean-fid's kernel, estimator and scheme of subsets."""

    observer: Observer
    reference: ReferenceRows
    name: str = "kid"
    seed: int = 0
    subsets: int = kernels.SUBSETS

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": observer_key(self.observer),
            "reference": self.reference.fingerprint,
            "subsets": f"{self.subsets} x {kernels.SUBSET_SIZE}, seed {self.seed}",
        }

    def compute(self, rows: Rows) -> float:
        random = np.random.RandomState(self.seed)
        return kernels.kernel_distance(rows, self.reference.rows, random, self.subsets)

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        # The score is no mean over all rows alike: a row moves it as often as subsets hold it.
        random = np.random.RandomState(self.seed)
        weights = kernels.subset_weights(len(rows), len(self.reference.rows), random, self.subsets)
        influence = weights * kernels.mmd_influence(rows, self.reference.rows, kernels.cubic)
        return _linear(self.compute(rows), influence - influence.mean(), picks)


@dataclass(frozen=True)
class CmmdMetric:
    """CMMD (Jayasumana et al. 2024): the Gaussian kernel's squared MMD on CLIP features, x 1000."""

    observer: Observer
    reference: ReferenceRows
    name: str = "cmmd"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": observer_key(self.observer),
            "reference": self.reference.fingerprint,
            "kernel": f"gaussian, sigma {kernels.CMMD_SIGMA:g}, x {kernels.CMMD_SCALE:g}",
        }

    def compute(self, rows: Rows) -> float:
        distance = kernels.squared_mmd(rows, self.reference.rows, kernels.gaussian)
        return kernels.CMMD_SCALE * distance

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        influence = kernels.mmd_influence(rows, self.reference.rows, kernels.gaussian)
        return _linear(self.compute(rows), kernels.CMMD_SCALE * influence, picks)


@dataclass(frozen=True)
class PrecisionMetric:
    """Share of samples inside the reference's manifold (Kynkaanniemi et al. 2019)."""

    observer: Observer
    reference: ReferenceRows
    name: str = "precision"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return _manifold_ingredients(self.observer, self.reference)

    def compute(self, rows: Rows) -> float:
        return float(self._inside(rows).mean())

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        flags = self._inside(rows).astype(np.float64)
        return _linear(float(flags.mean()), flags - flags.mean(), picks)

    def _inside(self, rows: Rows) -> Picks:
        return manifold.inside(rows, self.reference.rows, self.reference.radii)


@dataclass(frozen=True)
class RecallMetric:
    """Share of the reference inside the samples' manifold (Kynkaanniemi et al. 2019)."""

    observer: Observer
    reference: ReferenceRows
    name: str = "recall"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return _manifold_ingredients(self.observer, self.reference)

    def compute(self, rows: Rows) -> float:
        return float(manifold.inside(self.reference.rows, rows, manifold.radii(rows)).mean())

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        return manifold.covered_shares(self.reference.rows, rows, picks)


@dataclass(frozen=True)
class MeanMetric:
    """Mean of an observer's one number an image: prompt alignment, CLIP score, a reward."""

    observer: Observer
    name: str

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {"scorer": observer_key(self.observer)}

    def compute(self, rows: Rows) -> float:
        return float(rows[:, 0].astype(np.float64).mean())

    def replicates(self, rows: Rows, picks: Picks) -> Array:
        values = rows[:, 0].astype(np.float64)
        return _linear(float(values.mean()), values - values.mean(), picks)


def _manifold_ingredients(observer: Observer, reference: ReferenceRows) -> Mapping[str, str]:
    return {
        "features": observer_key(observer),
        "reference": reference.fingerprint,
        "neighbours": str(manifold.NEIGHBOURS),
    }


def _linear(score: float, influence: Array, picks: Picks) -> Array:
    """First order: the score moves by the mean influence of the rows that are picked."""
    shares: Array = picks @ influence / picks.sum(axis=1)
    return score + shares
