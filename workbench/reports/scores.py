"""Scores that ``workbench evaluate`` logged to runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from workbench.errors import RequestError
from workbench.metrics import Goal, metric_info
from workbench.reports.comparison import Verdict, caution, judge, rank
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.score_choice import Choice, Wanted, choose_scores
from workbench.reports.score_files import KeptScore, ScoreFiles
from workbench.reports.statistics import Estimate, estimate
from workbench.runs.kept_scores import ScoreName


@dataclass(frozen=True)
class RunScore:
    """One run's score; ``kept`` is its file, where it can be read."""

    run: SeedRun
    name: ScoreName
    value: float
    kept: KeptScore | None


@dataclass(frozen=True)
class GroupScore:
    """A group's score: its runs that have one, and their mean."""

    group: Group
    scores: tuple[RunScore, ...]

    @property
    def estimate(self) -> Estimate:
        return estimate([score.value for score in self.scores])

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of the expected score: over seeds; of one seed, over its samples, if measured."""
        kept = self.scores[0].kept
        if len(self.scores) > 1:
            return self.estimate.interval
        return None if kept is None else kept.interval

    @property
    def interval_over(self) -> str | None:
        """What the expectation is over: seeds, or samples of the one student."""
        if self.interval is None:
            return None
        return "seeds" if len(self.scores) > 1 else "samples"

    @property
    def kimg(self) -> tuple[float, ...]:
        """What its students were trained on, distinct, as far as the files say."""
        known = {score.kept.kimg for score in self.scores if score.kept is not None}
        return tuple(sorted(kimg for kimg in known if kimg is not None))


@dataclass(frozen=True)
class ScoreComparison:
    """Groups by one score, best first; several ``protocols`` only where they may be mixed."""

    metric: str
    reference: str
    steps: int
    protocols: tuple[str, ...]
    goal: Goal
    results: tuple[GroupScore, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def groups(self) -> tuple[Group, ...]:
        return tuple(result.group for result in self.results)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "metric": self.metric,
            "reference": self.reference,
            "steps": self.steps,
            "protocols": list(self.protocols),
            "goal": self.goal.value,
            "groups": [_group_dict(result) for result in self.results],
            "verdicts": [verdict.as_dict() for verdict in self.verdicts],
            "notes": list(self.notes),
        }


def compare_scores(
    selection: Selection, wanted: Wanted, files: ScoreFiles, *, allow_mixed: bool = False
) -> ScoreComparison:
    """Put groups side by side by one logged score.

    Raises:
        RequestError: no run has such a score (lists those there are), several are meant, or the
            runs' scores were made in different ways.
    """
    groups = selection.groups
    choice = choose_scores(groups, wanted, files, allow_mixed=allow_mixed)
    measured = [_scores(group, choice, files) for group in groups]
    known = [score.kept for scores in measured for score in scores if score.kept is not None]
    if not known:
        reasons = "; ".join(files.problems) or "neither in the workspace nor in the tracking store"
        raise RequestError(f"The files of these scores are missing ({reasons}).")
    first = choice.names[0]
    info = metric_info(first.metric)
    results = [
        GroupScore(replace(group, runs=tuple(score.run for score in scores)), scores)
        for group, scores in zip(groups, measured, strict=True)
        if scores
    ]
    results.sort(key=lambda result: rank(result.estimate, info))
    verdicts = judge([(result.group, result.estimate) for result in results], info)
    notes = [*choice.notes, *_absent(groups, results, first), *_kimg(results), *_single(results)]
    notes += [f"No file of a score: {problem}" for problem in files.problems]
    return ScoreComparison(
        metric=first.metric,
        reference=first.reference,
        steps=first.steps,
        protocols=tuple(sorted({s.name.protocol for result in results for s in result.scores})),
        goal=info.goal,
        results=tuple(results),
        verdicts=verdicts,
        notes=(*selection.notes, *notes, *caution(verdicts)),
    )


def _scores(group: Group, choice: Choice, files: ScoreFiles) -> tuple[RunScore, ...]:
    """Each run's score by the first of the chosen names that it has."""
    found = []
    for run in group.runs:
        name = next((name for name in choice.names if name.key in run.row.metrics), None)
        if name is not None:
            value = run.row.metrics[name.key]
            found.append(RunScore(run, name, value, files.find(run.row, name)))
    return tuple(found)


def _absent(groups: Sequence[Group], results: Sequence[GroupScore], name: ScoreName) -> list[str]:
    there = {run.row.run_id for result in results for run in result.group.runs}
    missing = [run for group in groups for run in group.runs if run.row.run_id not in there]
    if not missing:
        return []
    who = shortened([f"{run.row.experiment}/{run.row.name}" for run in missing])
    return [
        f"Left out, without {name.metric} against {name.reference} at {name.steps} steps: {who}."
    ]


def _kimg(results: Sequence[GroupScore]) -> list[str]:
    if len({kimg for result in results for kimg in result.kimg}) < 2:
        return []
    shown = [f"{r.group.label} {' and '.join(f'{k:g}' for k in r.kimg)}" for r in results if r.kimg]
    return [f"The students were not trained equally long; kimg: {'; '.join(shown)}."]


def _single(results: Sequence[GroupScore]) -> list[str]:
    alone = [result.group.label for result in results if len(result.scores) == 1]
    if not alone:
        return []
    return [
        "One seed only, so the interval is over its samples and says nothing of other seeds: "
        f"{shortened(alone)}."
    ]


def _group_dict(result: GroupScore) -> dict[str, Any]:
    group, found = result.group, result.estimate
    return {
        "label": group.label,
        "experiment": group.experiment,
        "variant": group.variant,
        "teacher": group.teacher,
        "variant_hash": group.variant_hash,
        "seeds": list(group.seeds),
        "mean": found.mean,
        "interval": result.interval,
        "interval_over": result.interval_over,
        "kimg": list(result.kimg),
        "runs": [
            {
                "run_id": score.run.row.run_id,
                "name": score.run.row.name,
                "seed": score.run.seed,
                "state": str(score.run.state),
                "value": score.value,
                "protocol": score.name.protocol,
                "kept": None if score.kept is None else asdict(score.kept),
            }
            for score in result.scores
        ],
    }
