"""Groups of runs side by side: what each reached, and which differences the seeds can vouch for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError, unknown_name
from workbench.metrics import METRICS, in_order, primary_of_most
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.statistics import (
    ONE_NOISE,
    SOME_NOISE,
    Estimate,
    Observation,
    estimate,
    estimate_scores,
)
from workbench.reports.verdicts import Verdict, caution, judge, paired_notes, rank
from workbench.runs import tags
from workbench.runs.state import RunState

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BEST, BEST_FRESH, LAST = "best", "best_fresh", "last"
AT_KIMG, AT_SECONDS = "at_kimg", "at_seconds"

Read = Callable[[SeedRun, str], Mapping[int, float]]
"""(run, score) -> evaluation seed -> the run's value; empty where it has none."""


@dataclass(frozen=True)
class GroupResult:
    """A group's numbers: ``scores[score][statistic]`` over its seeds, where all runs have it.

    ``best`` is the lowest of several noisy scores (the highest of a score that rises), and looks
    better than the weights are; ``best_fresh`` is of the same weights at fresh evaluation seeds.

    ``ms_per_image`` and ``nfe`` are the student's at its own step count, from the final table.
    """

    group: Group
    scores: Mapping[str, Mapping[str, Estimate]]
    ms_per_image: Estimate | None
    nfe: int | None

    def get(self, score: str, statistic: str) -> Estimate | None:
        return self.scores.get(score, {}).get(statistic)


@dataclass(frozen=True)
class Comparison:
    """Results best first, by ``metric`` at equal kimg.

    ``kimg`` and ``seconds`` are the most that every run reached; ``seconds`` is None where a run
    did not write its times. ``selected`` are the groups as they were asked for, in the order of
    their colours.
    """

    metric: str
    kimg: float
    seconds: float | None
    results: tuple[GroupResult, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    selected: tuple[Group, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(result.group for result in self.results)

    def frame(self) -> pd.DataFrame:
        """One row a group: means and intervals of every score and statistic, differences, p."""
        import pandas as pd

        from workbench.reports.tables import rows_of

        return pd.DataFrame(rows_of(self))

    def figure(self) -> Figure:
        """Curves and values at equal kimg, with the teacher's level.

        Raises:
            RequestError: there is nothing finite to draw.
        """
        from workbench.reports.figures.variants import plot, teacher_levels

        return plot(self.selected, self.metric, teacher_levels(self.selected, self.metric))

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


def compare(
    selection: Selection, metric: str | None = None, against: str | None = None
) -> Comparison:
    """Put groups side by side, judged by a metric or by what judged them during training.

    A metric that ranks nothing leaves them in their order, and verdicts say only what differs.

    Args:
        against: label of the group that all others are compared with; the best one unless named.

    Raises:
        RequestError: no run has such a score, or there is no such group.
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
    fresh = all(run.fresh(tags.LAST, metric) for run in begun)
    at_end = fresh and all(run.nimg == nimg for run in begun)
    results = [_result(group, known, nimg, seconds, fresh, at_end) for group in groups]
    results.sort(key=lambda result: rank(result.get(metric, AT_KIMG), info))
    notes = [*selection.notes, *_limits(begun, nimg), *_only_begun(runs, nimg), *_single(groups)]
    if seconds is not None:
        notes += _machines(runs)
    measured = [(result.group, result.get(metric, AT_KIMG)) for result in results]
    if against is not None and against in [g.label for g, own in measured if own is None]:
        raise RequestError(
            f"Not every run of {against} has {info.title} at {nimg / 1000:g} kimg, so nothing can "
            "be compared with it."
        )
    verdicts = judge([(g, own) for g, own in measured if own], info, against)
    notes += caution(verdicts, chosen=against is None)
    notes += _without(results, metric, nimg)
    notes += paired_notes(verdicts, groups)
    return Comparison(metric, nimg / 1000, seconds, tuple(results), verdicts, tuple(notes), groups)


def _result(
    group: Group,
    scores: Sequence[str],
    nimg: int,
    seconds: float | None,
    fresh: bool,
    at_end: bool,
) -> GroupResult:
    """Scores at fresh seeds count where all compared runs have them: else of unlike noise.

    Args:
        fresh: whether all have them, of their last weights.
        at_end: whether those weights are also what is compared at equal kimg.
    """

    def last(run: SeedRun, name: str) -> dict[int, float]:
        own = _own(run, run.curve.last(name))
        return {**own, **run.fresh(tags.LAST, name)} if own and fresh else own

    reads: dict[str, Read] = {
        BEST: lambda run, name: _own(run, _best(run, name)),
        BEST_FRESH: lambda run, name: run.fresh(tags.BEST, name) if run.row.primary == name else {},
        LAST: last,
        AT_KIMG: lambda run, name: (
            last(run, name) if at_end else _own(run, run.curve.at_nimg(name, nimg))
        ),
    }
    if seconds is not None:
        limit = seconds
        reads[AT_SECONDS] = lambda run, name: _own(run, run.curve.at_seconds(name, limit))
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
    paces = [run.row.metrics.get(key) for run in group.runs]
    known = [pace for pace in paces if pace is not None]
    return GroupResult(group, numbers, estimate(known) if len(known) == len(paces) else None, nfe)


def _over_seeds(group: Group, values: Sequence[Mapping[int, float]]) -> Estimate | None:
    if not all(values):
        return None
    return estimate_scores(
        Observation(run.seed, noise, value)
        for run, scores in zip(group.runs, values, strict=True)
        for noise, value in scores.items()
    )


def _own(run: SeedRun, value: float | None) -> dict[int, float]:
    """At the run's own evaluation seed."""
    return {} if value is None else {run.evaluation_seed: value}


def _best(run: SeedRun, name: str) -> float | None:
    logged = run.row.best_scores.get(name)
    if logged is not None:  # of all evaluations: a long curve keeps only some of them
        return logged
    return METRICS[name].best(run.curve.scores.get(name, ())) if name in METRICS else None


def _without(results: Sequence[GroupResult], metric: str, nimg: int) -> list[str]:
    """Groups that have no interval or no verdict, and why."""
    notes = []
    for result in results:
        own = result.get(metric, AT_KIMG)
        if own is None and any(run.nimg >= nimg for run in result.group.runs):
            notes.append(f"{result.group.label}: no verdict, as not every run has {metric} there.")
        elif own is not None and own.reason in (ONE_NOISE, SOME_NOISE):
            notes.append(f"{result.group.label}: no interval ({own.reason}).")
    return notes


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
        **group.as_dict(),
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
    return {
        "mean": found.mean,
        "half": found.half,
        "interval": found.interval,
        "values": list(found.values),
        "training_sd": found.training_sd,
        "evaluation_sd": found.evaluation_sd,
        "observations": [each._asdict() for each in found.observations],
        "no_interval": found.reason,
    }
