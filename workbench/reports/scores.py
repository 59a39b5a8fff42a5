"""Scores that ``workbench evaluate`` logged to runs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from workbench.errors import RequestError
from workbench.metrics import Goal, metric_info
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.score_choice import Choice, Wanted, choose_scores, logged_scores
from workbench.reports.score_files import KeptScore, ScoreFiles
from workbench.reports.statistics import Estimate, Observation, estimate, estimate_scores
from workbench.reports.verdicts import Verdict, caution, judge, paired_notes, rank
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
    """A group's score: those of its runs, each at one evaluation seed or more, and their mean."""

    group: Group
    scores: tuple[RunScore, ...]

    @cached_property
    def estimate(self) -> Estimate:
        return estimate_scores(
            Observation(score.run.seed, score.name.seed, score.value) for score in self.scores
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of the expected score: over training and evaluation seeds; of one run, over its
        evaluation seeds, or over the samples of the one, if measured."""
        kept = self.scores[0].kept
        if self.estimate.n > 1:
            return self.estimate.interval
        if len(self.scores) > 1:
            return estimate([score.value for score in self.scores]).interval
        return None if kept is None else kept.interval

    @property
    def interval_over(self) -> str | None:
        """What the expectation is over."""
        if self.interval is None:
            return None
        if self.estimate.n > 1:
            return "training and evaluation"
        return "evaluation seeds" if len(self.scores) > 1 else "samples"

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
    selection: Selection,
    wanted: Wanted,
    files: ScoreFiles,
    *,
    allow_mixed: bool = False,
    against: str | None = None,
) -> ScoreComparison:
    """Put groups side by side by one logged score.

    Where runs were scored at different evaluation seeds and share some, those that all of them
    have count.

    Args:
        against: as :func:`~workbench.reports.comparison.compare`.

    Raises:
        RequestError: no run has such a score (lists those there are), several are meant, or the
            runs' scores were made in different ways.
    """
    groups = selection.groups
    choice = choose_scores(groups, wanted, files, allow_mixed=allow_mixed)
    measured = [_scores(group, choice, files) for group in groups]
    measured, left_out = _same_noise(measured)
    known = [score.kept for scores in measured for score in scores if score.kept is not None]
    if not known:
        reasons = "; ".join(files.problems) or "neither in the workspace nor in the tracking store"
        raise RequestError(f"The files of these scores are missing ({reasons}).")
    first = choice.names[0]
    info = metric_info(first.metric)
    results = [
        GroupScore(replace(group, runs=_runs(scores)), scores)
        for group, scores in zip(groups, measured, strict=True)
        if scores
    ]
    results.sort(key=lambda result: rank(result.estimate, info))
    verdicts = judge([(result.group, result.estimate) for result in results], info, against)
    notes = [
        *choice.notes,
        *left_out,
        *_absent(groups, results, first),
        *_kimg(results),
        *_single(results),
    ]
    notes += [f"No file of a score: {problem}" for problem in files.problems]
    return ScoreComparison(
        metric=first.metric,
        reference=first.reference,
        steps=first.steps,
        protocols=tuple(sorted({s.name.protocol for result in results for s in result.scores})),
        goal=info.goal,
        results=tuple(results),
        verdicts=verdicts,
        notes=(
            *selection.notes,
            *notes,
            *caution(verdicts, chosen=against is None),
            *paired_notes(verdicts, [r.group for r in results]),
        ),
    )


def _scores(group: Group, choice: Choice, files: ScoreFiles) -> tuple[RunScore, ...]:
    """Each run's scores by the first of the chosen names that it has, at every evaluation seed."""
    found = []
    for run in group.runs:
        logged = logged_scores(run)
        there = {name.of_any_seed for name in logged}
        chosen = next((name for name in choice.names if name in there), None)
        for name in logged:
            if name.of_any_seed == chosen:
                value = run.row.metrics[name.key]
                found.append(RunScore(run, name, value, files.find(run.row, name)))
    return tuple(found)


def _same_noise(
    measured: Sequence[tuple[RunScore, ...]],
) -> tuple[list[tuple[RunScore, ...]], list[str]]:
    """The scores at the evaluation seeds that all runs share, where they differ and share some.

    Else all of them; and a note of what was left out.
    """
    seeds: dict[str, set[int]] = {}
    for score in (score for scores in measured for score in scores):
        seeds.setdefault(score.run.row.run_id, set()).add(score.name.seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    extra = sorted(set().union(*seeds.values()) - common)
    if not common or not extra:
        return list(measured), []
    kept = [tuple(s for s in scores if s.name.seed in common) for scores in measured]
    told = ", ".join(map(str, extra))
    return kept, [f"Left out: evaluation seeds that not every run was scored at ({told})."]


def _runs(scores: Sequence[RunScore]) -> tuple[SeedRun, ...]:
    return tuple({score.run.row.run_id: score.run for score in scores}.values())


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
    alone = [result.group.label for result in results if result.estimate.n == 1]
    if not alone:
        return []
    return [
        f"One training seed only, so its interval says nothing of other ones: {shortened(alone)}."
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
        "training_sd": found.training_sd,
        "evaluation_sd": found.evaluation_sd,
        "kimg": list(result.kimg),
        "runs": [
            {
                "run_id": score.run.row.run_id,
                "name": score.run.row.name,
                "seed": score.run.seed,
                "evaluation_seed": score.name.seed,
                "state": str(score.run.state),
                "value": score.value,
                "protocol": score.name.protocol,
                "kept": None if score.kept is None else asdict(score.kept),
            }
            for score in result.scores
        ],
    }
