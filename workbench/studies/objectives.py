"""What a study improves: any metric of its runs, in the metric's own direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.metrics import DRIFT_METRICS, METRICS, PERF, Goal, MetricInfo
from workbench.teachers.analytic import ANALYTIC
from workbench.training.config import RunConfig

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Direction = Literal["minimize", "maximize"]

_COST = "ms_per_image"


@dataclass(frozen=True)
class Objective:
    """A metric of a run's student at its full step count K, as Optuna is told of it.

    A metric with a target is told as its distance to the target, ``MetricInfo.badness``, which is
    minimized; any other one as it is measured.
    """

    info: MetricInfo

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def direction(self) -> Direction:
        return "maximize" if self.info.goal is Goal.HIGHER else "minimize"

    @property
    def title(self) -> str:
        """As people read it: "FID", "saturation (nearest to 1)"."""
        if self.info.goal is Goal.NEAR:
            return f"{self.info.title} (nearest to {self.info.target:g})"
        return self.info.title

    @property
    def aim(self) -> str:
        """For a sentence: "minimize FID"; a title that names its target says it already."""
        return self.title if self.info.goal is Goal.NEAR else f"{self.direction} {self.title}"

    @property
    def metric(self) -> str | None:
        """The same score during the run, for pruning; None if it is measured only at the end."""
        return None if self.info.group == PERF else self.info.key

    def told(self, score: float) -> float:
        """What Optuna compares, for a score as it was measured."""
        return self.info.badness(score) if self.info.goal is Goal.NEAR else score

    def better(self, one: float, other: float) -> bool:
        """Whether the first of two told numbers is the better one."""
        return one < other if self.direction == "minimize" else one > other

    def score(self, trial: FrozenTrial, place: int) -> float:
        """A complete trial's score as it was measured, the mean over its seeds.

        Args:
            place: of this objective among the study's.
        """
        told = float(trial.values[place])
        return float(trial.user_attrs[self.name]) if self.info.goal is Goal.NEAR else told


class UnusableScoreError(WorkbenchError):
    """A run ended, but with a score that cannot be compared."""


def get_objective(name: str) -> Objective:
    """An objective by its metric's name.

    Raises:
        RequestError: no such metric (names the nearest), or one whose best value is not fixed.
    """
    if name not in METRICS:
        raise unknown_name("objective", name, METRICS)
    info = METRICS[name]
    if not _is_ranked(info):
        raise RequestError(
            f"The metric {name} cannot be an objective: which of its values is the best depends on "
            "the truth that samples are compared with."
        )
    return Objective(info)


def default_objective(base: RunConfig) -> str:
    """The metric that judges the runs of a configuration.

    Raises:
        RequestError: it measures none.
    """
    name = base.evaluation.primary_metric
    if name is None:
        raise RequestError(
            "The study has nothing to improve: evaluation.metrics is empty. Set it, or name one of "
            f"what is measured all the same, by --objective: {', '.join(measured(base))}."
        )
    return name


def measured(base: RunConfig) -> list[str]:
    """The metrics of a configuration's runs that can be objectives."""
    # The drift is of images, and an analytic teacher draws points.
    drift = () if base.teacher in ANALYTIC else DRIFT_METRICS
    timed = (_COST,) if base.evaluation.metrics else ()  # with the scores
    names = dict.fromkeys((*base.evaluation.metrics, *drift, *timed))
    return [name for name in names if _is_ranked(METRICS[name])]


def check_measured(objectives: Sequence[Objective], base: RunConfig) -> None:
    """Refuse objectives that a configuration's runs do not measure.

    Raises:
        RequestError: names one, and those that they do.
    """
    known = measured(base)
    for objective in objectives:
        if objective.name not in known:
            raise RequestError(
                f"These runs do not measure {objective.name}. --objective takes one of "
                f"{', '.join(known)}; evaluation.metrics says what is measured."
            )


def student_scores(
    results: Mapping[str, Any], steps: int, needed: Sequence[Objective]
) -> dict[str, float]:
    """The scores of the student with so many steps, by the metric's name, as measured.

    Args:
        results: of a run: its ``table``, and its ``drift`` where it measured one.
        needed: what the study is judged by; of the other scores those that are finite.

    Raises:
        UnusableScoreError: a needed score is missing, or not finite.
    """
    table = results["table"]
    own = (row for row in table if row["model"] == "student" and row["steps"] == steps)
    row: Mapping[str, Any] = next(own, {})  # a run without metrics has no table, but its drift
    drift = {name: entry["value"] for name, entry in results.get("drift", {}).items()}
    told = {**{name: row[name] for name in METRICS if name in row}, **drift}
    scores = {name: float(value) for name, value in told.items() if value is not None}
    for objective in needed:
        value = scores.get(objective.name, math.nan)
        if not math.isfinite(objective.told(value)):
            shown = value if objective.name in scores else "not in the run's results"
            raise UnusableScoreError(f"The student's {objective.name} is {shown}.")
    return {name: value for name, value in scores.items() if math.isfinite(value)}


def _is_ranked(info: MetricInfo) -> bool:
    return info.goal is not Goal.NEAR or info.target is not None
