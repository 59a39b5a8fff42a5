"""Groups of runs side by side: what each reached, and which differences the seeds can vouch for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.metrics import METRICS, Goal, MetricInfo, in_order, primary_of_most
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.statistics import Difference, Estimate, estimate, welch
from workbench.runs.state import RunState

BEST, LAST, AT_KIMG, AT_SECONDS = "best", "last", "at_kimg", "at_seconds"

Read = Callable[[SeedRun, str], float | None]
"""(run, score) -> the run's value; None where it has none."""


@dataclass(frozen=True)
class GroupResult:
    """A group's numbers: ``scores[score][statistic]`` over its seeds, where all runs have it.

    ``ms_per_image`` and ``nfe`` are the student's at its own step count, from the final table.
    """

    group: Group
    scores: Mapping[str, Mapping[str, Estimate]]
    ms_per_image: Estimate | None
    nfe: int | None

    def get(self, score: str, statistic: str) -> Estimate | None:
        return self.scores.get(score, {}).get(statistic)


@dataclass(frozen=True)
class Verdict:
    """A group against the best one that several seeds vouch for, at equal kimg.

    ``difference`` is of the metric's values; near a target, of their distances from it
    (:meth:`MetricInfo.badness`), as two values on either side of it may be equally good.
    """

    label: str
    best: str
    difference: Difference
    info: MetricInfo

    @property
    def is_better(self) -> bool:
        """Possible only for a group of a single seed, which cannot be the reference."""
        return (self.difference.mean < 0) == (self.info.goal is not Goal.HIGHER)

    @property
    def words(self) -> str:
        apart = self.difference.excludes_zero
        if self.difference.half is None:
            return "one seed: no interval"
        if apart is None:
            return "a seed diverged: no interval"
        if not apart:
            return "not told apart"
        if not self.info.ranks:
            return "told apart"
        return "better" if self.is_better else "worse"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "group": self.label,
            "best": self.best,
            "difference": self.difference.mean,
            "interval": self.difference.interval,
            "excludes_zero": self.difference.excludes_zero,
        }


@dataclass(frozen=True)
class Comparison:
    """Results best first, by ``metric`` at equal kimg.

    ``kimg`` and ``seconds`` are the most that every run reached; ``seconds`` is None where a run
    did not write its times.
    """

    metric: str
    kimg: float
    seconds: float | None
    results: tuple[GroupResult, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(result.group for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metric": self.metric,
            "kimg": self.kimg,
            "seconds": self.seconds,
            "groups": [_result_dict(result) for result in self.results],
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "notes": list(self.notes),
        }


def primary_metric(selection: Selection) -> str:
    """What judged most of these runs during training; else the first that they measured.

    Raises:
        RequestError: they measured nothing.
    """
    runs = [run for group in selection.groups for run in group.runs]
    judged = primary_of_most([*run.row.metrics, *map(_key, run.curve.scores)] for run in runs)
    measured = in_order(name for run in runs for name in run.curve.scores)
    if judged is None and not measured:
        raise RequestError("These runs measured no score: there is nothing to compare them by.")
    return judged or measured[0]


def _key(score: str) -> str:
    return METRICS[score].key if score in METRICS else score


def compare(selection: Selection, metric: str | None = None) -> Comparison:
    """Put groups side by side, judged by a metric or by what judged them during training.

    A metric that ranks nothing leaves them in their order, and verdicts say only what differs.

    Raises:
        RequestError: no run has such a score.
    """
    groups = selection.groups
    runs = [run for group in groups for run in group.runs]
    known = sorted({name for run in runs for name in run.curve.scores})
    metric = metric or primary_metric(selection)
    if metric not in known or metric not in METRICS:
        raise unknown_name("metric", metric, [name for name in known if name in METRICS])
    info = METRICS[metric]
    begun = [run for run in runs if run.nimg > 0] or runs  # at 0 nothing has been learnt yet
    nimg = min(run.nimg for run in begun)
    seconds: float | None = min(run.seconds for run in begun)
    if any(math.isnan(run.seconds) for run in begun):
        seconds = None
    results = [_result(group, known, nimg, seconds) for group in groups]
    results.sort(key=lambda result: rank(result.get(metric, AT_KIMG), info))
    notes = [*selection.notes, *_limits(begun, nimg), *_only_begun(runs, nimg), *_single(groups)]
    if seconds is not None:
        notes += _machines(runs)
    measured = [(result.group, result.get(metric, AT_KIMG)) for result in results]
    verdicts = judge([(g, own) for g, own in measured if own], info)
    notes += caution(verdicts)
    return Comparison(metric, nimg / 1000, seconds, tuple(results), verdicts, tuple(notes))


def _result(group: Group, scores: Sequence[str], nimg: int, seconds: float | None) -> GroupResult:
    reads: dict[str, Read] = {
        BEST: _best,
        LAST: lambda run, name: run.curve.last(name),
        AT_KIMG: lambda run, name: run.curve.at_nimg(name, nimg),
    }
    if seconds is not None:
        limit = seconds
        reads[AT_SECONDS] = lambda run, name: run.curve.at_seconds(name, limit)
    numbers = {
        name: {
            statistic: found
            for statistic, read in reads.items()
            if (found := _over_seeds(group, [read(run, name) for run in group.runs])) is not None
        }
        for name in scores
    }
    steps = group.params.get("generator.steps", "")
    nfe = int(steps) if steps.isdigit() else None
    key = f"table/student_{nfe}_ms_per_image"
    pace = _over_seeds(group, [run.row.metrics.get(key) for run in group.runs])
    return GroupResult(group, numbers, pace, nfe)


def _over_seeds(group: Group, values: Sequence[float | None]) -> Estimate | None:
    present = [value for value in values if value is not None]
    return estimate(present) if len(present) == len(group.runs) else None


def _best(run: SeedRun, name: str) -> float | None:
    logged = run.row.best_scores.get(name)
    if logged is not None:  # of all evaluations: a long curve keeps only some of them
        return logged
    return METRICS[name].best(run.curve.scores.get(name, ())) if name in METRICS else None


def rank(found: Estimate | None, info: MetricInfo) -> tuple[bool, float]:
    """Sorts groups best first; those without a value last, all of them equal if nothing ranks.

    Near a target every seed counts by its own distance: one above and one below are not on it.
    """
    if found is None or math.isnan(found.mean):
        return True, 0.0
    return False, fmean(map(info.badness, found.values)) if info.ranks else 0.0


def judge(measured: Sequence[tuple[Group, Estimate]], info: MetricInfo) -> tuple[Verdict, ...]:
    """Every other group against the best that several seeds vouch for, if there is one.

    Args:
        measured: best first.
    """
    reference = next((pair for pair in measured if pair[1].n > 1), None) or next(
        iter(measured), None
    )
    if reference is None:
        return ()
    best, best_own = reference
    of_best = _judged(best_own, info)
    return tuple(
        Verdict(group.label, best.label, welch(_judged(own, info), of_best), info)
        for group, own in measured
        if group is not best
    )


def _judged(found: Estimate, info: MetricInfo) -> Sequence[float]:
    near = info.goal is Goal.NEAR and info.ranks
    return [info.badness(value) for value in found.values] if near else found.values


def caution(verdicts: Sequence[Verdict]) -> list[str]:
    """What a reader of several intervals has to know."""
    if sum(verdict.difference.half is not None for verdict in verdicts) < 2:
        return []
    return [
        "Intervals are not corrected for their number, and the best was chosen by the same "
        "data: differences near the edge of theirs need more seeds."
    ]


def _limits(runs: Sequence[SeedRun], nimg: int) -> list[str]:
    """Who keeps the others from being compared later."""
    most = max(run.nimg for run in runs)
    slow = [run for run in runs if run.nimg == nimg and run.state is not RunState.FINISHED]
    if not slow or most == nimg:
        return []
    names = shortened([f"{run.row.name} ({run.state})" for run in slow])
    return [
        f"Equal kimg is {nimg / 1000:g} of up to {most / 1000:g}, as far as {names} got; "
        "--finished leaves unfinished runs out."
    ]


def _only_begun(runs: Sequence[SeedRun], nimg: int) -> list[str]:
    """Whose values at equal kimg are not there yet."""
    names = [run.row.name for run in runs if run.nimg < nimg]
    if not names:
        return []
    return [f"Only evaluated at 0 kimg yet, so not at equal kimg: {shortened(names)}."]


def _single(groups: Sequence[Group]) -> list[str]:
    alone = [group.label for group in groups if len(group.runs) == 1]
    if not alone:
        return []
    return [f"One seed only, so no interval: {shortened(alone)}."]


def _machines(runs: Sequence[SeedRun]) -> list[str]:
    kinds = {tuple(run.row.tags.get(key, "?") for key in ("host", "device")) for run in runs}
    if len(kinds) < 2:
        return []
    shown = ", ".join(sorted("/".join(kind) for kind in kinds))
    return [f"Equal seconds are of different machines: {shown}."]


def _result_dict(result: GroupResult) -> dict[str, Any]:
    group, pace = result.group, result.ms_per_image
    return {
        "label": group.label,
        "experiment": group.experiment,
        "variant": group.variant,
        "teacher": group.teacher,
        "variant_hash": group.variant_hash,
        "seeds": list(group.seeds),
        "scores": {
            name: {statistic: _estimate_dict(found) for statistic, found in statistics.items()}
            for name, statistics in result.scores.items()
        },
        "ms_per_image": None if pace is None else _estimate_dict(pace),
        "nfe": result.nfe,
        "runs": [
            {
                "run_id": run.row.run_id,
                "name": run.row.name,
                "seed": run.seed,
                "state": str(run.state),
                "kimg": run.nimg / 1000,
                "evaluation": run.protocol,
            }
            for run in group.runs
        ],
    }


def _estimate_dict(found: Estimate) -> dict[str, Any]:
    return {**asdict(found), "values": list(found.values), "interval": found.interval}
