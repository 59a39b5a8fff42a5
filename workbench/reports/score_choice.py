"""Which of the scores that ``workbench evaluate`` logged are meant, and whether they compare.

A score's name holds the reference, the steps, the id of its protocol, all that decides it besides
the student and its noise (weights of the networks, resizing, samples, prompts, reference,
versions), and the evaluation seed. Scores compare exactly where the ids are equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.reports.groups import Group, SeedRun, Selection, shortened
from workbench.reports.score_files import ScoreFiles
from workbench.runs.kept_scores import ScoreName

_NOT_PROTOCOL = ("protocol", "sampler", "id")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Wanted:
    """Which scores: what is None is the only one there is."""

    metric: str
    reference: str | None = None
    steps: int | None = None
    protocol: str | None = None

    @property
    def names_an_evaluation(self) -> bool:
        return (self.reference, self.steps, self.protocol) != (None, None, None)


@dataclass(frozen=True)
class Choice:
    """Names of equal scores, one unless protocols may be mixed: a run counts by its first.

    None of them names an evaluation seed: scores at any compare.
    """

    names: tuple[ScoreName, ...]
    notes: tuple[str, ...] = ()


def is_logged(selection: Selection, wanted: Wanted) -> bool:
    """Whether a score of ``workbench evaluate`` is meant, not one measured during training.

    It is where reference, steps or protocol are named, or training measured no such score.

    Raises:
        RequestError: neither has such a score (lists those there are).
    """
    runs = [run for group in selection.groups for run in group.runs]
    trained = {name for run in runs for name in run.curve.scores}
    if wanted.names_an_evaluation:
        return True
    if wanted.metric in trained:
        return False
    logged = {name.metric for run in runs for name in _names(run)}
    if wanted.metric not in logged:
        raise unknown_name("metric", wanted.metric, trained | logged)
    return True


def choose_scores(
    groups: Sequence[Group], wanted: Wanted, files: ScoreFiles, *, allow_mixed: bool = False
) -> Choice:
    """The wanted scores: of the one protocol that all of the measured runs have.

    Raises:
        RequestError: no run has such a score (lists those there are), several are meant, or the
            runs share no protocol and may not be mixed.
    """
    having = _having(groups, _named(groups, wanted), wanted)
    measured = {run.row.run_id for runs in having.values() for run in runs}
    shared = [name for name, runs in having.items() if len(runs) == len(measured)]
    if len(shared) == 1:
        return Choice((shared[0],))
    # Where several are shared, any run can tell in what they differ.
    ways = _ways({name: having[name] for name in shared} or having, files)
    text = f"{wanted.metric} of these runs was measured in {len(shared or having)} ways: {ways}."
    if shared:
        raise RequestError(f"{text} Choose with --protocol.")
    if not allow_mixed:
        raise RequestError(
            f"{text} Such scores do not compare; --allow-mixed shows them all the same."
        )
    order = sorted(having, key=lambda name: (-len(having[name]), name))
    return Choice(tuple(order), (f"{text} Such scores do not compare.",))


def _having(
    groups: Sequence[Group], named: Sequence[ScoreName], wanted: Wanted
) -> dict[ScoreName, list[SeedRun]]:
    """The runs that have each score; of the protocol that was asked for."""
    asked = [name for name in named if name.protocol.startswith(wanted.protocol or "")]
    if wanted.protocol is not None and len(asked) != 1:
        raise unknown_name(
            f"protocol of {wanted.metric}", wanted.protocol, [name.protocol for name in named]
        )
    runs = [run for group in groups for run in group.runs]
    logged = {run.row.run_id: set(_names(run)) for run in runs}
    return {name: [run for run in runs if name in logged[run.row.run_id]] for name in asked}


def _names(run: SeedRun) -> list[ScoreName]:
    """Every score that was logged to a run, at any evaluation seed."""
    return sorted({name.of_any_seed for name in logged_scores(run)})


def logged_scores(run: SeedRun) -> list[ScoreName]:
    """Names of the scores that ``workbench evaluate`` logged to a run, with evaluation seeds."""
    parsed = (ScoreName.parse(key) for key in run.row.metrics)
    return sorted(name for name in parsed if name is not None)


def _named(groups: Sequence[Group], wanted: Wanted) -> list[ScoreName]:
    """The wanted scores that some run has: of one metric, reference and number of steps."""
    names = sorted({name for group in groups for run in group.runs for name in _names(run)})
    if not names:
        raise RequestError(
            "No score of `workbench evaluate` is logged to these runs; measure them first: "
            f"workbench evaluate RUN --metrics {wanted.metric}."
        )
    metrics = {name.metric for name in names}
    if wanted.metric not in metrics:
        raise unknown_name("metric of `workbench evaluate`", wanted.metric, metrics)
    names = [name for name in names if name.metric == wanted.metric]
    reference = _only("reference", wanted, wanted.reference, [name.reference for name in names])
    names = [name for name in names if name.reference == reference]
    steps = _only("steps", wanted, wanted.steps, [str(name.steps) for name in names])
    return [name for name in names if str(name.steps) == steps]


def _only(option: str, wanted: Wanted, asked: object, there: Iterable[str]) -> str:
    """What was asked for, or the only one there is."""
    known = sorted(set(there))
    if asked is not None and str(asked) not in known:
        raise unknown_name(f"{option} of {wanted.metric}", str(asked), known)
    if asked is None and len(known) > 1:
        raise RequestError(
            f"{wanted.metric} was measured with --{option} {' and '.join(known)}: choose one."
        )
    return known[0] if asked is None else str(asked)


def _ways(having: Mapping[ScoreName, Sequence[SeedRun]], files: ScoreFiles) -> str:
    """Who was measured by which protocol, and in what the protocols differ."""
    made = {}
    for name, runs in having.items():
        first = next(each for each in logged_scores(runs[0]) if each.of_any_seed == name)
        kept = files.find(runs[0].row, first)
        made[name] = None if kept is None else dict(_flat(kept.fingerprint))
    known = [parts for parts in made.values() if parts is not None]
    keys = sorted({key for parts in known for key in parts})
    differing = [key for key in keys if len({parts.get(key) for parts in known}) > 1]
    texts = []
    for name, runs in having.items():
        parts = made[name]
        what = "its file is missing"
        if parts is not None:
            what = ", ".join(f"{key} {parts.get(key, 'none')}" for key in differing)
        who = shortened([run.row.name for run in runs])
        texts.append(f"{who} by {name.protocol}" + (f" ({what})" if what else ""))
    return "; ".join(texts)


def _flat(fingerprint: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in fingerprint.items():
        if key in _NOT_PROTOCOL:
            continue
        if isinstance(value, Mapping):
            yield from ((inner, str(part)) for inner, part in value.items())
        else:
            yield key, str(value)[:_SHOWN_CHARACTERS]
