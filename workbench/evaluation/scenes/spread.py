"""How much of the truth's spread the samples of one prompt keep: known exactly for scenes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from workbench.data.scenes import (
    COLORS,
    EDGE,
    LATTICE,
    RADII,
    SHAPES,
    Asked,
    Request,
    Size,
    allowed_colors,
    lattice_reach,
)
from workbench.errors import RequestError
from workbench.evaluation.design import Array, Design, Places
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.evaluation.scenes.composition import judged_by, parsed, shows
from workbench.evaluation.scenes.detector import Detected, SceneDetector

REVISION = 1

_SIZES: tuple[Size | None, ...] = (None, "small", "large")
_COLORS = tuple(COLORS)
_OPEN = len(_COLORS)
"""Number of the color that a prompt leaves open."""

_KINDS = len(SHAPES) * (_OPEN + 1) * len(_SIZES)
_MANY = 8
"""Samples of one prompt whose own spread tells how sure theirs is."""


class SpreadJudge(FeatureExtractor):
    """Rows (kind, found, x, y, radius, color) of an image given its prompt.

    ``kind`` numbers what was asked: shape, color, size of a single object; -1 for any other prompt.
    Place and color are those of the surest object of that kind, 0 where none is found.
    """

    name = "spread"
    dimension = 6

    def __init__(self, detector: SceneDetector) -> None:
        self.detector = detector
        self.fingerprint = f"{REVISION}-{detector.fingerprint}"

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts of no scene, and those of which no two ask for the same single object.

        Raises:
            RequestError: says which.
        """
        kinds = [kind for kind in map(kind_of, parsed(prompts)) if kind >= 0]
        if len(set(kinds)) == len(kinds):
            raise RequestError("No two of them ask for the same single object: no spread is seen.")

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] and their B prompts to rows (B, 6).

        Raises:
            RequestError: a prompt is of no scene.
        """
        pairs = zip(parsed(prompts), self.detector.detect(images), strict=True)
        return torch.tensor([_row(*pair) for pair in pairs]).reshape(-1, self.dimension)


def kind_of(request: Request) -> int:
    """A number for what a request for one object asks for; -1 of any other."""
    if request.count != 1:
        return -1
    (asked,) = request.objects
    color = _OPEN if asked.color is None else _COLORS.index(asked.color)
    place = SHAPES.index(asked.shape) * (_OPEN + 1) + color
    return place * len(_SIZES) + _SIZES.index(asked.size)


def asked_by(kind: int) -> Asked:
    """The object that :func:`kind_of` numbers."""
    place, size = divmod(kind, len(_SIZES))
    shape, color = divmod(place, _OPEN + 1)
    return Asked(SHAPES[shape], None if color == _OPEN else _COLORS[color], _SIZES[size])


def _row(request: Request, found: Sequence[Detected]) -> tuple[float, ...]:
    kind = kind_of(request)
    if kind >= 0:
        asked = asked_by(kind)
        for one in found:
            if shows(asked, one):
                return float(kind), 1.0, one.x, one.y, one.radius, float(one.color)
    return float(kind), 0.0, 0.0, 0.0, 0.0, 0.0


def true_variances(asked: Asked) -> tuple[float, float, float, float]:
    """Variances of x, y, radius and color (the chance that two differ) given a prompt.

    A radius is uniform, and given it a center is uniform over the lattice's points between the
    edges. The color's is 0 where the prompt names it.
    """
    least, most = RADII[asked.size]
    place = 0.0
    for reach in range(lattice_reach(most), lattice_reach(least) + 1):
        # Radii of this reach; of 2 m + 1 points, the variance is m (m + 1) / 3 spacings squared.
        above = max(least, 0.5 - EDGE - (reach + 1) / LATTICE)
        below = min(most, 0.5 - EDGE - reach / LATTICE)
        place += (below - above) / (most - least) * reach * (reach + 1) / 3 / LATTICE**2
    colors = 0.0 if asked.color is not None else 1 - 1 / len(allowed_colors(asked.shape))
    return place, place, (most - least) ** 2 / 12, colors


@dataclass(frozen=True)
class SpreadMetric:
    """Spread among samples of one prompt over the truth's: 1 is the truth's, 0 is no spread.

    Prompts in other wordings that ask for the same single object are one. Of x, y, radius and,
    where the prompt leaves it open, color: the mean squared difference of pairs (of colors the
    share of pairs that differ) over its expectation under the exact distribution; then their mean.
    A pair counts for one over its prompt's number of samples, as in a pooled variance: else prompts
    that are asked most would decide alone. Where all pairs are duplicates that is 0; where half
    are, half. What is not found is left out here and counts in ``composition``. Without a pair that
    is found it is 0: no spread is seen.
    """

    extractor: SpreadJudge
    name: str

    @property
    def ingredients(self) -> Mapping[str, str]:
        return judged_by(self.extractor, self.extractor.detector)

    def compute(self, rows: Rows) -> float:
        return _Spread(rows).value

    def error(self, rows: Rows, design: Design) -> float:
        """By prompts, which are independent; within a prompt of many samples, by its samples."""
        return _Spread(rows).error


class _Spread:
    """Sums of squares within prompts, and what the truth expects of them."""

    def __init__(self, rows: Rows) -> None:
        seen = rows[(rows[:, 0] >= 0) & (rows[:, 1] > 0)].astype(np.float64)
        kinds, group, counts = np.unique(
            seen[:, 0].astype(int), return_inverse=True, return_counts=True
        )
        self.group: Places = group
        self.counts = counts.astype(np.float64)
        expected = np.array([true_variances(asked_by(int(kind))) for kind in kinds]).reshape(-1, 4)
        self.expected: Array = expected * (self.counts - 1)[:, None]
        open_ = expected[self.group, 3] > 0
        self.squares: Array = np.stack(
            [
                *(self._squares(seen[:, column]) for column in (2, 3, 4)),
                sum(self._squares(1.0 * (seen[:, 5] == color)) for color in range(_OPEN)) * open_,
            ],
            axis=1,
        )

    def _squares(self, values: Array) -> Array:
        means = np.bincount(self.group, values, len(self.counts)) / self.counts
        squares: Array = (values - means[self.group]) ** 2
        return squares

    @cached_property
    def ratios(self) -> Array:
        """Of those of x, y, radius and color that are there."""
        total = self.expected.sum(axis=0)
        there = total > 0
        ratios: Array = self.squares.sum(axis=0)[there] / total[there]
        return ratios

    @property
    def value(self) -> float:
        return float(self.ratios.mean()) if self.ratios.size else 0.0

    @property
    def error(self) -> float:
        total = self.expected.sum(axis=0)
        there = total > 0
        if not there.any():
            return 0.0
        scale = 1 / (total[there] * there.sum())
        share = (self.expected / self.counts[:, None])[self.group][:, there]
        moved = ((self.squares[:, there] - self.ratios * share) * scale).sum(axis=1)
        by_group = np.bincount(self.group, moved, len(self.counts)).astype(np.float64)
        within = np.bincount(self.group, self._squares(moved), len(self.counts)).astype(np.float64)
        by_sample = within * self.counts / np.maximum(self.counts - 1, 1)
        return float(np.sqrt(np.where(self.counts < _MANY, by_group**2, by_sample).sum()))
