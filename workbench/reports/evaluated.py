"""Scores that ``workbench evaluate`` logged to runs: which are meant, and groups side by side.

Beside metric, reference and steps, a score has the id of its protocol, all that decides it besides
the student and its noise (weights of the networks, resizing, samples, prompts, versions), and its
evaluation seed. Scores compare exactly where the ids are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import RequestError, unknown_name
from workbench.metrics import Goal, metric_info
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.score_files import KeptScore, ScoreFiles
from workbench.reports.scores import Score, evaluated_scores, kept_score
from workbench.reports.statistics import Estimate, Observation, estimate, estimate_scores
from workbench.reports.verdicts import Verdict, caution, judge, paired_notes, rank

if TYPE_CHECKING:
    import pandas as pd

_NOT_PROTOCOL = ("protocol", "sampler", "id")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class ScoreQuery:
    """Which scores: what is None is the only one there is."""

    metric: str
    reference: str | None = None
    steps: int | None = None
    protocol: str | None = None


class RunScore(NamedTuple):
    """One run's score; ``kept`` is its file, where it was looked for and can be read."""

    run: SeedRun
    score: Score
    kept: KeptScore | None = None


@dataclass(frozen=True)
class GroupScore:
    """A group's score: those of its runs, each at one evaluation seed or more, and their mean."""

    group: Group
    scores: tuple[RunScore, ...]

    @cached_property
    def estimate(self) -> Estimate:
        return estimate_scores(
            Observation(run.seed, score.evaluation_seed, score.value)
            for run, score, _ in self.scores
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 %, of the expected score: over training and evaluation seeds; of one run, over its
        evaluation seeds, or over the samples of the one, if measured."""
        kept = self.scores[0].kept
        if self.estimate.n > 1:
            return self.estimate.interval
        if len(self.scores) > 1:
            return estimate([own.score.value for own in self.scores]).interval
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

    def frame(self) -> pd.DataFrame:
        """One row a group: mean and interval of the score, difference, p."""
        import pandas as pd

        from workbench.reports.tables import rows_of

        return pd.DataFrame(rows_of(self))

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
    wanted: ScoreQuery,
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
    having, mixed = _choose(_named(_evaluated(groups), wanted), wanted, files, allow_mixed)
    measured, left_out = _same_noise([_scores(group, having, files) for group in groups])
    known = [score.kept for scores in measured for score in scores if score.kept is not None]
    if not known:
        reasons = "; ".join(files.problems) or "neither in the workspace nor in the tracking store"
        raise RequestError(f"The files of these scores are missing ({reasons}).")
    first = next(iter(having.values()))[0].score
    info = metric_info(first.metric)
    results = [
        GroupScore(replace(group, runs=_runs(scores)), scores)
        for group, scores in zip(groups, measured, strict=True)
        if scores
    ]
    results.sort(key=lambda result: rank(result.estimate, info))
    verdicts = judge([(result.group, result.estimate) for result in results], info, against)
    notes = [
        *mixed,
        *left_out,
        *_absent(groups, results, first),
        *_kimg(results),
        *_single(results),
    ]
    notes += [f"No file of a score: {problem}" for problem in dict.fromkeys(files.problems)]
    return ScoreComparison(
        metric=first.metric,
        reference=first.reference,
        steps=first.steps,
        protocols=tuple(sorted({s.score.protocol for result in results for s in result.scores})),
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


def is_logged(selection: Selection, wanted: ScoreQuery) -> bool:
    """Whether a score of ``workbench evaluate`` is meant, not one measured during training.

    It is where reference, steps or protocol are named, or training measured no such score.

    Raises:
        RequestError: neither has such a score (lists those there are).
    """
    trained = {n for group in selection.groups for run in group.runs for n in run.curve.scores}
    if (wanted.reference, wanted.steps, wanted.protocol) != (None, None, None):
        return True
    if wanted.metric in trained:
        return False
    logged = {found.score.metric for found in _evaluated(selection.groups)}
    if wanted.metric not in logged:
        raise unknown_name("metric", wanted.metric, trained | logged)
    return True


def _evaluated(groups: Sequence[Group]) -> list[RunScore]:
    runs = [(group, run) for group in groups for run in group.runs]
    return [RunScore(run, score) for group, run in runs for score in evaluated_scores(group, run)]


def _named(found: Sequence[RunScore], wanted: ScoreQuery) -> list[RunScore]:
    """Those of the wanted metric, reference and number of steps.

    Raises:
        RequestError: no run has such a score (lists those there are), or several are meant.
    """
    if not found:
        raise RequestError(
            "No score of `workbench evaluate` is logged to these runs; measure them first: "
            f"workbench evaluate RUN --metric {wanted.metric}."
        )
    metrics = {each.score.metric for each in found}
    if wanted.metric not in metrics:
        raise unknown_name("metric of `workbench evaluate`", wanted.metric, metrics)
    found = [each for each in found if each.score.metric == wanted.metric]
    reference = _only("reference", wanted, wanted.reference, [e.score.reference for e in found])
    found = [each for each in found if each.score.reference == reference]
    steps = _only("steps", wanted, wanted.steps, [str(each.score.steps) for each in found])
    return [each for each in found if str(each.score.steps) == steps]


def _only(option: str, wanted: ScoreQuery, asked: object, there: Iterable[str]) -> str:
    """What was asked for, or the only one there is."""
    known = sorted(set(there))
    if asked is not None and str(asked) not in known:
        raise unknown_name(f"{option} of {wanted.metric}", str(asked), known)
    if asked is None and len(known) > 1:
        raise RequestError(
            f"{wanted.metric} was measured with --{option} {' and '.join(known)}: choose one."
        )
    return known[0] if asked is None else str(asked)


def _choose(
    found: Sequence[RunScore], wanted: ScoreQuery, files: ScoreFiles, allow_mixed: bool
) -> tuple[dict[str, list[RunScore]], list[str]]:
    """The scores by protocol: of the one that all measured runs have, else of all there are.

    Raises:
        RequestError: several are meant, or the runs share none and may not be mixed.
    """
    having: dict[str, list[RunScore]] = {}
    for each in sorted(found, key=lambda each: each.score.protocol):
        having.setdefault(each.score.protocol, []).append(each)
    asked = {p: own for p, own in having.items() if p.startswith(wanted.protocol or "")}
    if wanted.protocol is not None and len(asked) != 1:
        raise unknown_name(f"protocol of {wanted.metric}", wanted.protocol, having)
    runs = {p: len({each.score.run for each in own}) for p, own in asked.items()}
    measured = len({each.score.run for own in asked.values() for each in own})
    shared = {p: own for p, own in asked.items() if runs[p] == measured}
    if len(shared) == 1:
        return shared, []
    # Where several are shared, any run can tell in what they differ.
    ways = _ways(shared or asked, files)
    text = f"{wanted.metric} of these runs was measured in {len(shared or asked)} ways: {ways}."
    if shared:
        raise RequestError(f"{text} Choose with --protocol.")
    if not allow_mixed:
        raise RequestError(
            f"{text} Such scores do not compare; --allow-mixed shows them all the same."
        )
    order = sorted(asked, key=lambda protocol: -runs[protocol])
    return {p: asked[p] for p in order}, [f"{text} Such scores do not compare."]


def _ways(having: Mapping[str, Sequence[RunScore]], files: ScoreFiles) -> str:
    """Who was measured by which protocol, and in what the protocols differ."""
    made: dict[str, dict[str, str] | None] = {}
    for protocol, own in having.items():
        kept = kept_score(own[0].score, own[0].run, files)
        made[protocol] = None if kept is None else dict(_flat(kept.fingerprint))
    known = [parts for parts in made.values() if parts is not None]
    keys = sorted({key for parts in known for key in parts})
    differing = [key for key in keys if len({parts.get(key) for parts in known}) > 1]
    texts = []
    for protocol, own in having.items():
        parts = made[protocol]
        what = "its file is missing"
        if parts is not None:
            what = ", ".join(f"{key} {parts.get(key, 'none')}" for key in differing)
        who = shortened(list({each.score.run: each.run.row.name for each in own}.values()))
        texts.append(f"{who} by {protocol}" + (f" ({what})" if what else ""))
    return "; ".join(texts)


def _flat(fingerprint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in fingerprint.items():
        if key in _NOT_PROTOCOL:
            continue
        if isinstance(value, Mapping):
            yield from ((inner, str(part)) for inner, part in value.items())
        else:
            yield key, str(value)[:_SHOWN_CHARACTERS]


def _scores(
    group: Group, having: Mapping[str, Sequence[RunScore]], files: ScoreFiles
) -> tuple[RunScore, ...]:
    """Each run's scores by the first of the protocols that it has, at every evaluation seed."""
    found: list[RunScore] = []
    for run in group.runs:
        of_run = ([e for e in own if e.run is run] for own in having.values())
        chosen = next((own for own in of_run if own), [])
        found += [each._replace(kept=kept_score(each.score, run, files)) for each in chosen]
    return tuple(found)


def _same_noise(
    measured: Sequence[tuple[RunScore, ...]],
) -> tuple[list[tuple[RunScore, ...]], list[str]]:
    """The scores at the evaluation seeds that all runs share, where they differ and share some.

    Else all of them; and a note of what was left out.
    """
    seeds: dict[str, set[int]] = {}
    for own in (own for scores in measured for own in scores):
        seeds.setdefault(own.score.run, set()).add(own.score.evaluation_seed)
    common = set.intersection(*seeds.values()) if seeds else set()
    extra = sorted(set().union(*seeds.values()) - common)
    if not common or not extra:
        return list(measured), []
    kept = [tuple(s for s in scores if s.score.evaluation_seed in common) for scores in measured]
    told = ", ".join(map(str, extra))
    return kept, [f"Left out: evaluation seeds that not every run was scored at ({told})."]


def _runs(scores: Sequence[RunScore]) -> tuple[SeedRun, ...]:
    return tuple({score.run.row.run_id: score.run for score in scores}.values())


def _absent(groups: Sequence[Group], results: Sequence[GroupScore], name: Score) -> list[str]:
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
        **group.as_dict(),
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
                "evaluation_seed": score.score.evaluation_seed,
                "state": str(score.run.state),
                "value": score.score.value,
                "protocol": score.score.protocol,
                "kept": None if score.kept is None else asdict(score.kept),
            }
            for score in result.scores
        ],
    }
