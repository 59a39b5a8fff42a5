"""Scores as functions of the rows that an extractor saw, and how far chance moves them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation import kernels, manifold
from workbench.evaluation.design import Array, Design, Picks
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.evaluation.frechet import (
    CentredRows,
    FeatureStatistics,
    frechet_distance,
    frechet_influence,
)


class Metric(Protocol):
    """One score of all rows of one extractor, by its name in ``workbench.metrics``.

    ``ingredients`` names by hash everything besides the samples that decides the score.
    """

    @property
    def name(self) -> str: ...

    @property
    def extractor(self) -> FeatureExtractor: ...

    @property
    def ingredients(self) -> Mapping[str, str]: ...

    def compute(self, rows: Rows) -> float:
        """The score of rows (N, D), one a sample, in sample order."""
        ...

    def error(self, rows: Rows, design: Design) -> float:
        """Standard error of the score over fresh samples of the same design."""
        ...


@runtime_checkable
class OfParts(Protocol):
    """A share that is not that of all rows alike: of some of them, or a mean over parts."""

    def count(self, rows: Rows) -> float:
        """How many rows, all alike, would tell as much."""
        ...


@dataclass(frozen=True, eq=False)
class ReferenceRows:
    """What an extractor saw in the real images: rows (M, D); statistics where known before."""

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

    extractor: FeatureExtractor
    reference: FeatureStatistics
    name: str = "fid"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": self.extractor.key,
            "reference": self.reference.fingerprint,
        }

    def compute(self, rows: Rows) -> float:
        return frechet_distance(CentredRows(rows), self.reference)

    def error(self, rows: Rows, design: Design) -> float:
        return design.error(rows, self._influence)

    def _influence(self, rows: Rows, design: Design) -> Array:
        return design.within(frechet_influence(rows, self.reference))


@dataclass(frozen=True)
class _RowsMetric:
    """What compares an extractor's rows with those of the real images."""

    extractor: FeatureExtractor
    reference: ReferenceRows

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": self.extractor.key,
            "reference": self.reference.fingerprint,
            **self._settings,
        }

    @property
    def _settings(self) -> Mapping[str, str]:
        """What else decides the score."""
        return {"neighbours": str(manifold.NEIGHBOURS)}


@dataclass(frozen=True)
class KernelMetric(_RowsMetric):
    """KID (Binkowski et al. 2018): clean-fid's kernel, estimator and scheme of subsets."""

    name: str = "kid"
    seed: int = 0
    subsets: int = kernels.SUBSETS
    subset_size: int = kernels.SUBSET_SIZE

    @property
    def _settings(self) -> Mapping[str, str]:
        return {"subsets": f"{self.subsets} x {self.subset_size}, seed {self.seed}"}

    def compute(self, rows: Rows) -> float:
        return kernels.kernel_distance(rows, self.reference.rows, self._places(rows))

    def error(self, rows: Rows, design: Design) -> float:
        return design.error(rows, self._influence)

    def _influence(self, rows: Rows, design: Design) -> Array:
        # The score is no mean over all rows alike: a row moves it as often as subsets hold it.
        picked = np.zeros(len(rows))
        for ours, _ in self._places(rows):
            picked[ours] += 1.0
        influence = kernels.mmd_influence(rows, self.reference.rows, kernels.cubic)
        moved: Array = picked / picked.mean() * design.within(influence)
        return moved

    def _places(self, rows: Rows) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        counts = len(rows), len(self.reference.rows)
        return kernels.subset_places(*counts, self.seed, self.subsets, self.subset_size)


@dataclass(frozen=True)
class CmmdMetric(_RowsMetric):
    """CMMD (Jayasumana et al. 2024): the Gaussian kernel's squared MMD on CLIP features, x 1000."""

    name: str = "cmmd"

    @property
    def _settings(self) -> Mapping[str, str]:
        return {"kernel": f"gaussian, sigma {kernels.CMMD_SIGMA:g}, x {kernels.CMMD_SCALE:g}"}

    def compute(self, rows: Rows) -> float:
        distance = kernels.squared_mmd(rows, self.reference.rows, kernels.gaussian)
        return kernels.CMMD_SCALE * distance

    def error(self, rows: Rows, design: Design) -> float:
        return kernels.CMMD_SCALE * design.error(rows, self._influence)

    def _influence(self, rows: Rows, design: Design) -> Array:
        return design.within(kernels.mmd_influence(rows, self.reference.rows, kernels.gaussian))


@dataclass(frozen=True)
class PrecisionMetric(_RowsMetric):
    """Share of samples inside the reference's manifold (Kynkaanniemi et al. 2019)."""

    name: str = "precision"

    def compute(self, rows: Rows) -> float:
        return float(self._inside(rows).mean())

    def error(self, rows: Rows, design: Design) -> float:
        return design.error_of_mean(self._inside(rows).astype(np.float64))

    def _inside(self, rows: Rows) -> Picks:
        return manifold.inside(rows, self.reference.rows, self.reference.radii)


@dataclass(frozen=True)
class RecallMetric(_RowsMetric):
    """Share of the reference inside the samples' manifold (Kynkaanniemi et al. 2019)."""

    name: str = "recall"

    def compute(self, rows: Rows) -> float:
        return float(manifold.inside(self.reference.rows, rows, manifold.radii(rows)).mean())

    def error(self, rows: Rows, design: Design) -> float:
        return design.error_by_halves(
            lambda picks: manifold.covered_shares(self.reference.rows, rows, picks)
        )


@dataclass(frozen=True)
class MeanMetric:
    """Mean of an extractor's one number an image: prompt alignment, CLIP score, a reward."""

    extractor: FeatureExtractor
    name: str

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {"scorer": self.extractor.key}

    def compute(self, rows: Rows) -> float:
        return float(rows[:, 0].astype(np.float64).mean())

    def error(self, rows: Rows, design: Design) -> float:
        return design.error_of_mean(rows[:, 0].astype(np.float64))
