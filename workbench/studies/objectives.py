"""What a study improves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.errors import WorkbenchError, unknown_name

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Objective:
    """One score of a run's student at its full step count K.

    Attributes:
        column: in the results table.
        metric: the same score during the run, for pruning; None if it is measured only at the end.
    """

    name: str
    direction: Direction
    column: str
    metric: str | None

    def better(self, one: float, other: float) -> bool:
        """Whether the first of two scores is the better one."""
        return one < other if self.direction == "minimize" else one > other


OBJECTIVES = {
    objective.name: objective
    for objective in (
        Objective("fid", "minimize", "fid", "eval/fid"),
        Objective("alignment", "maximize", "alignment", "eval/alignment"),
        Objective("ms_per_image", "minimize", "ms_per_image", None),
    )
}


class UnusableScoreError(WorkbenchError):
    """A run ended, but with a score that cannot be compared."""


def get_objective(name: str) -> Objective:
    """An objective by name.

    Raises:
        RequestError: unknown.
    """
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    return OBJECTIVES[name]


def student_scores(
    table: Sequence[Mapping[str, Any]], steps: int, needed: Sequence[Objective]
) -> dict[str, float]:
    """The scores of the student with so many steps, by the objective's name.

    Args:
        needed: what the study is judged by; of the other scores those that are finite.

    Raises:
        UnusableScoreError: a needed score is not finite.
    """
    row = next(r for r in table if r["model"] == "student" and r["steps"] == steps)
    scores = {name: float(row[objective.column]) for name, objective in OBJECTIVES.items()}
    for objective in needed:
        if not math.isfinite(scores[objective.name]):
            raise UnusableScoreError(f"The student's {objective.name} is {scores[objective.name]}.")
    return {name: value for name, value in scores.items() if math.isfinite(value)}
