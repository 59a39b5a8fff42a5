"""A study at a glance: its trials' states, the best ones, what is running and how long it takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name
from workbench.studies.listener import PROGRESS
from workbench.studies.parent import best_trials
from workbench.studies.space import Value
from workbench.studies.spec import StudySpec
from workbench.studies.trial import RUNS
from workbench.studies.trials import (
    ERROR,
    OPEN,
    REFUSAL,
    WORKER,
    StudyTrials,
    TrialStatus,
    attempts_at,
    count,
    grace_of,
    number_of,
    status_of,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialView:
    """A trial as people see it. Times in seconds; ``left`` is None while no pace is known.

    Attributes:
        values: by objective, as measured; empty until it is complete.
        duration: seconds from its last beginning to its end, or to now while it runs.
        curve: the reports by which it is judged, in order, as Optuna was told them.
        silent: seconds since its worker last wrote how far it is; None if it never did.
        error: why it failed; of a waiting one, why the last worker could not run it.
    """

    number: int
    state: str
    values: Mapping[str, float]
    params: Mapping[str, Value]
    attempts: int
    worker: str | None
    nimg: int
    total_nimg: int | None
    curve: tuple[float, ...]
    left: float | None
    silent: float | None
    error: str | None
    runs: tuple[str, ...]
    duration: float | None


@dataclass(frozen=True)
class StudyView:
    """A study's trials, and what follows from them.

    Attributes:
        objectives: name -> which way it improves.
        best: of one objective the best trial, of several the Pareto front; best first.
        history: the first objective's value of each complete trial, in the order of their ends.
        refused: waiting trials that a worker could not run where it is.
        workers: those that run a trial and were heard of within their own grace.
        left: seconds to the end with as many workers as there are now.
    """

    name: str
    experiment: str
    objectives: Mapping[str, str]
    sampler: str
    pruner: str
    counts: Mapping[str, int]
    best: tuple[TrialView, ...]
    running: tuple[TrialView, ...]
    failed: tuple[TrialView, ...]
    refused: tuple[TrialView, ...]
    history: tuple[float, ...]
    workers: tuple[str, ...]
    left: float | None

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return self.total - sum(self.counts[state] for state in OPEN)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total, "ended": self.ended}


def study_view(trials: StudyTrials) -> StudyView:
    """The study as it stands."""
    now, spec, found, budget = time.time(), trials.spec, trials.all(), trials.budget
    counts = count(found, budget)

    def shown(*states: TrialStatus) -> list[TrialView]:
        return [trial_view(spec, trial, now) for trial in found if status_of(trial) in states]

    running = [trial for trial in found if status_of(trial) is TrialStatus.RUNNING]
    workers = {
        seen.worker
        for trial, seen in zip(running, shown(TrialStatus.RUNNING), strict=True)
        if seen.silent is None or seen.silent < grace_of(trial, spec.settings)
    } - {None}
    return StudyView(
        name=spec.name,
        experiment=spec.experiment,
        objectives={o.name: o.info.goal.value for o in spec.objectives},
        sampler=spec.settings.sampler,
        pruner=spec.pruner,
        counts={status.value: counts[status] for status in TrialStatus},
        best=tuple(trial_view(spec, trial, now) for trial in best_trials(spec, found)),
        running=tuple(shown(TrialStatus.RUNNING)),
        failed=tuple(shown(TrialStatus.FAILED) + shown(TrialStatus.LOST)),
        refused=tuple(trial for trial in shown(TrialStatus.WAITING) if trial.error is not None),
        history=tuple(spec.objectives[0].score(trial, 0) for trial in complete_trials(found)),
        workers=tuple(sorted(worker for worker in workers if worker is not None)),
        left=_left(found, counts, max(1, len(workers))),
    )


def trial_views(trials: StudyTrials) -> list[TrialView]:
    """Every trial that has begun or was enqueued, by number."""
    now = time.time()
    return [trial_view(trials.spec, trial, now) for trial in trials.all()]


def sorted_trials(spec: StudySpec, views: Sequence[TrialView], column: str) -> list[TrialView]:
    """Trials by a column: of an objective the best first; those without a value last.

    Args:
        column: number, state, duration, an objective or a key of the space.

    Raises:
        RequestError: no such column (names the nearest).
    """
    objectives = {objective.name: objective for objective in spec.objectives}
    if column in objectives:
        told = objectives[column].told
        sign = 1.0 if objectives[column].direction == "minimize" else -1.0
        keys = {v.number: sign * told(v.values[column]) for v in views if column in v.values}
        return sorted(views, key=lambda view: keys.get(view.number, math.inf))
    if column in ("number", "state", "duration"):
        found: Mapping[int, Any] = {view.number: getattr(view, column) for view in views}
    elif column in spec.space:
        found = {view.number: view.params.get(column) for view in views}
    else:
        known = ("number", "state", "duration", *objectives, *spec.space)
        raise unknown_name("column of trials", column, known)
    return sorted(views, key=lambda view: _order(found[view.number]))


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers, then texts, then nothing: a choice may hold several kinds."""
    if value is None:
        return 2, 0.0, ""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def complete_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The complete ones, in the order of their ends."""
    complete = [trial for trial in trials if status_of(trial) is TrialStatus.COMPLETE]
    return sorted(complete, key=lambda t: (t.datetime_complete is None, t.datetime_complete))


def trial_view(spec: StudySpec, trial: FrozenTrial, now: float) -> TrialView:
    """A trial's present attempt; ``now`` in seconds since 1970."""
    attributes, status = trial.user_attrs, status_of(trial)
    progress = attributes.get(PROGRESS, {})
    rate = float(progress.get("images_per_s", 0.0))
    left = silent = None
    if status is TrialStatus.RUNNING and progress:
        silent = max(0.0, now - progress["at"])
    if status is TrialStatus.RUNNING and rate > 0:
        runs = progress["runs"] - progress["run"]
        left = (progress["total_nimg"] * runs - progress["nimg"]) / rate
    error, refusal = attributes.get(ERROR), attributes.get(REFUSAL)
    if refusal is not None and status is TrialStatus.WAITING:
        error = f"{refusal['worker']} could not run it: {refusal['reason']}"
    return TrialView(
        number=number_of(trial),
        state=status.value,
        values=spec.scores(trial) if status is TrialStatus.COMPLETE else {},
        params=dict(trial.params),
        attempts=attempts_at(trial),
        worker=attributes.get(WORKER),
        nimg=int(progress.get("nimg", 0)),
        total_nimg=progress.get("total_nimg"),
        curve=tuple(value for _, value in sorted(trial.intermediate_values.items())),
        left=left,
        silent=silent,
        error=error,
        runs=tuple(attributes.get(RUNS, ())),
        duration=_duration(trial, status, now),
    )


def _duration(trial: FrozenTrial, status: TrialStatus, now: float) -> float | None:
    if trial.duration is not None:
        return trial.duration.total_seconds()
    if status is not TrialStatus.RUNNING or trial.datetime_start is None:
        return None
    return now - trial.datetime_start.timestamp()


def _left(
    trials: Sequence[FrozenTrial], counts: Mapping[TrialStatus, int], workers: int
) -> float | None:
    """By the mean time of the trials that have ended, pruned ones included."""
    if not any(counts[status] for status in OPEN):
        return 0.0
    scored = (TrialStatus.COMPLETE, TrialStatus.PRUNED)
    spans = [t.duration.total_seconds() for t in trials if status_of(t) in scored and t.duration]
    # A running trial is half done, on average.
    work = counts[TrialStatus.WAITING] + counts[TrialStatus.RUNNING] / 2
    return statistics.fmean(spans) * work / workers if spans else None
