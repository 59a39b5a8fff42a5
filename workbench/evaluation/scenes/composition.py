"""GenEval's score in miniature: whether a detector finds what the prompt asks for, by skill.

As in GenEval (Ghosh et al. 2023, arXiv 2310.11513) the score of all is the mean over skills of the
share of images that are right, and counting alone is strict: exactly so many objects of the asked
kind. Elsewhere what was asked must be there, each of it by an object of its own, and more may be.
One object lies left of another where their centers are further apart than a tenth of both widths,
GenEval's margin; its second rule, that the offset points within 60 degrees of the axis, is left
out, because scenes that are drawn left of each other need not keep it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from workbench.data.scenes import COLORS, RADII, SHAPES, SKILLS, Asked, Request, Skill, parse
from workbench.errors import RequestError
from workbench.evaluation.design import Array, Design
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.evaluation.scenes.detector import Detected, SceneDetector
from workbench.metrics import ACCURACY

REVISION = 1
"""Of what counts as right."""

_MARGIN = 0.1
_COLORS = tuple(COLORS)
_LEAST, _LARGEST = RADII[None]
_MIDDLE = (_LEAST + _LARGEST) / 2
"""Radius above which an object is large."""


def is_right(request: Request, found: Sequence[Detected]) -> bool:
    """Whether an image with these objects shows what was asked for."""
    if len(request.objects) == 1:
        (asked,) = request.objects
        count = sum(shows(asked, one) for one in found)
        return count == asked.count if asked.count > 1 else count > 0
    return any(
        all(map(shows, request.objects, chosen)) and _lie(request, chosen)
        for chosen in permutations(found, len(request.objects))
    )


def shows(asked: Asked, found: Detected) -> bool:
    """Whether an object is of the asked kind; small and large by the middle of all radii."""
    return (
        SHAPES[found.shape] == asked.shape
        and asked.color in (None, _COLORS[found.color])
        and (asked.size is None or (found.radius > _MIDDLE) == (asked.size == "large"))
    )


def _lie(request: Request, chosen: Sequence[Detected]) -> bool:
    if request.relation is None:
        return True
    first, second = chosen
    along = second.x - first.x if request.relation == "left of" else second.y - first.y
    return along > _MARGIN * 2 * (first.radius + second.radius)


def parsed(prompts: Sequence[str]) -> list[Request]:
    """What prompts ask for, each read once.

    Raises:
        RequestError: names the first that is of no scene.
    """
    requests = {prompt: parse(prompt) for prompt in dict.fromkeys(prompts)}
    return [requests[prompt] for prompt in prompts]


class CompositionJudge(FeatureExtractor):
    """Rows (right, number of the skill) of an image given its prompt.

    Args:
        skill: which one prompts must ask for, if it is for a score of one alone.
    """

    name = "composition"
    dimension = 2

    def __init__(self, detector: SceneDetector, skill: Skill | None = None) -> None:
        self.detector, self.skill = detector, skill
        self.fingerprint = f"{REVISION}-{detector.fingerprint}"

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts of no scene, and those of which none asks for the skill.

        Raises:
            RequestError: names the first of them, or the skill.
        """
        skills = {request.skill for request in parsed(prompts)}
        if self.skill is not None and self.skill not in skills:
            raise RequestError(
                f"None of them is of the skill {self.skill}; they are of {', '.join(skills)}."
            )

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] and their B prompts to rows (B, 2).

        Raises:
            RequestError: a prompt is of no scene.
        """
        pairs = zip(parsed(prompts), self.detector.detect(images), strict=True)
        rows = [(float(is_right(r, found)), float(SKILLS.index(r.skill))) for r, found in pairs]
        return torch.tensor(rows).reshape(-1, self.dimension)


@dataclass(frozen=True)
class CompositionMetric:
    """Share of images that are right, of the judge's skill or the mean over all.

    Skills that no prompt asks for are left out of that mean.
    """

    extractor: CompositionJudge
    name: str

    @property
    def ingredients(self) -> Mapping[str, str]:
        return judged_by(self.extractor, self.extractor.detector)

    def compute(self, rows: Rows) -> float:
        return float(np.mean([rows[of, 0].astype(np.float64).mean() for of in self._parts(rows)]))

    def error(self, rows: Rows, design: Design) -> float:
        parts = self._parts(rows)
        moved: Array = np.zeros(len(rows))
        for of in parts:  # a sample moves the share of its own skill alone, as 1 of its samples
            right = rows[of, 0].astype(np.float64)
            moved[of] = (right - right.mean()) * len(rows) / len(right) / len(parts)
        return design.error_of_mean(moved)

    def count(self, rows: Rows) -> float:
        """Rows of the skill; of the mean, their harmonic mean times the number of skills."""
        sizes = np.array([of.sum() for of in self._parts(rows)])
        return float(len(sizes) ** 2 / (1 / sizes).sum())

    def _parts(self, rows: Rows) -> list[np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Which rows are of each skill."""
        skill = self.extractor.skill
        wanted = range(len(SKILLS)) if skill is None else [SKILLS.index(skill)]
        parts = [rows[:, 1] == number for number in wanted]
        return [of for of in parts if of.any()]


def judged_by(extractor: FeatureExtractor, detector: SceneDetector) -> dict[str, str]:
    """What decides a score of the detector's, and how far it can be trusted."""
    return {"scorer": extractor.key, ACCURACY: f"{detector.accuracy:.4f}"}
