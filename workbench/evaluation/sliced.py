"""Sliced Wasserstein distance between samples, from closed forms in one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation.design import Array, Design
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.flow.noise import NoiseSource
from workbench.hashing import fingerprint

PROJECTIONS = 64


def directions(count: int, dimension: int) -> Array:
    """Unit vectors (count, dimension): equally spaced over a half circle in the plane.

    Elsewhere fixed random ones; in one dimension there is only one.
    """
    if dimension == 1:
        return np.ones((1, 1))
    if dimension == 2:
        angle = math.pi * (np.arange(count) + 0.5) / count
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    drawn = NoiseSource(0).normal("sliced", 0, count, (dimension,)).double().numpy()
    unit: Array = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def sliced_wasserstein(one: Rows | Array, other: Rows | Array, projections: int) -> float:
    """SW_2 = sqrt(mean over directions of W_2^2) between (N, D) and (M, D) (Bonneel et al. 2015).

    In one dimension W_2^2 is the integral over u in (0, 1) of the squared difference of both
    quantile functions, which are steps: exact by sorting, for any N and M.
    """
    unit = directions(projections, one.shape[1])
    ours, theirs = (np.sort(rows.astype(np.float64) @ unit.T, axis=0) for rows in (one, other))
    if len(ours) == len(theirs):
        return float(np.sqrt(np.square(ours - theirs).mean()))
    ends = _ends(len(ours), len(theirs))
    widths = np.diff(ends, prepend=0) / ends[-1]
    # The interval that ends at e lies in step ceil(e / length) - 1 of each quantile function.
    mine, its = ((-(-ends * len(x) // ends[-1])) - 1 for x in (ours, theirs))
    squares = np.square(ours[mine] - theirs[its]).mean(axis=1)
    return float(np.sqrt(widths @ squares))


def _ends(n: int, m: int) -> NDArray[np.int64]:
    """Where the steps of both quantile functions end, in units of 1 / (n m)."""
    return np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)


@dataclass(frozen=True, eq=False)
class SlicedWassersteinMetric:
    """Sliced Wasserstein distance of samples to fixed samples of the truth (M, D)."""

    extractor: FeatureExtractor
    reference: Rows
    name: str = "sliced_w2"
    projections: int = PROJECTIONS

    @cached_property
    def ingredients(self) -> dict[str, str]:
        return {
            "features": self.extractor.key,
            "reference": fingerprint(np.ascontiguousarray(self.reference).tobytes().hex()),
            "projections": str(self.projections),
        }

    def compute(self, rows: Rows) -> float:
        return sliced_wasserstein(rows, self.reference, self.projections)

    def error(self, rows: Rows, design: Design) -> float:
        return design.error_by_halves(
            lambda picks: np.array([self.compute(rows[pick]) for pick in picks])
        )
