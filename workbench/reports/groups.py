"""From names that a person types to groups of runs that may be averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from workbench.errors import WorkbenchError
from workbench.runs.state import RunState, state_of
from workbench.runs.tags import EVALUATION, fresh_seed, read_fresh
from workbench.tracking import Curve, RunRow, read_curve
from workbench.tracking.curve import TAG

_NOT_SETTINGS = ("experiment", "variant", "seed", "teacher")
_SHOWN_DIFFERENCES = 2
_SHOWN_NAMES = 3
_DRIFT_TAG = "curve.drift"
"""Where earlier versions kept the drift of images."""

_SHORT = 2400
"""Characters that a tag surpasses when it keeps every other evaluation of more than fit."""

ReadHistory = Callable[[RunRow], Curve]

Planned = Mapping[str, tuple[str, ...]]
"""Fingerprint of a variant's settings -> its plan's changes, ``()`` for the plan without."""


@dataclass(frozen=True)
class SeedRun:
    """One tracked run with its evaluations."""

    row: RunRow
    curve: Curve
    state: RunState

    @property
    def seed(self) -> int:
        return int(self.row.tags["seed"])

    @property
    def evaluation_seed(self) -> int:
        """Of the noise that its samples are drawn from."""
        set_ = self.row.params.get("evaluation.seed", "null")
        return int(set_) if set_.isdigit() else self.seed

    @property
    def nimg(self) -> int:
        """Images at its last evaluation."""
        return self.curve.nimg[-1]

    @property
    def seconds(self) -> float:
        """Seconds of training at its last evaluation; NaN where the run did not write them."""
        return self.curve.seconds[-1]

    @property
    def protocol(self) -> str:
        """What its scores may be compared with: an id of the evaluation's whole protocol."""
        samples = self.row.params.get("evaluation.samples")
        return self.row.tags.get(EVALUATION, f"not recorded ({samples} samples)")

    def fresh(self, weights: str, score: str) -> dict[int, float]:
        """Evaluation seed -> a score of the ``last`` or the ``best`` weights at the run's end."""
        found = {read_fresh(key): value for key, value in self.row.metrics.items()}
        return {
            fresh_seed(self.evaluation_seed, name[1]): value
            for name, value in found.items()
            if name is not None and (name[0], name[2]) == (weights, score)
        }


@dataclass(frozen=True)
class Group:
    """Repetitions: runs whose settings are equal but for the seed, one run a seed.

    ``label`` tells it from the other groups beside it.
    """

    label: str
    experiment: str
    variant: str
    teacher: str
    variant_hash: str
    runs: tuple[SeedRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    def as_dict(self) -> dict[str, Any]:
        """What tells it from all others, as plain values for JSON."""
        names = ("label", "experiment", "variant", "teacher", "variant_hash")
        return {**{name: getattr(self, name) for name in names}, "seeds": list(self.seeds)}

    @property
    def params(self) -> Mapping[str, str]:
        """The settings that its runs share."""
        return self.runs[0].row.params

    @property
    def started(self) -> int:
        """When its newest run began, ms since 1970."""
        return max(run.row.start_time for run in self.runs)


@dataclass(frozen=True)
class Selection:
    """Groups to compare, and what a person has to know of how they were made."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()


def shortened(names: Sequence[str]) -> str:
    """As much of a list as a line has room for."""
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def is_thinned(row: RunRow) -> bool:
    """Whether a tag had no room for each evaluation, of an earlier version that had one tag."""
    kimg = float(row.params.get("schedule.evaluate_kimg", "inf"))
    apart = max(1000 * kimg, float(row.params.get("training.batch_size", 0)))
    if f"{TAG}.1" in row.tags:
        return False  # this version keeps them all
    alone = {tag: text for tag, text in row.tags.items() if tag in (TAG, _DRIFT_TAG)}
    long = [read_curve({tag: text}) for tag, text in alone.items() if len(text) > _SHORT]
    gaps = [min(b - a for a, b in pairwise(curve.nimg)) for curve in long if curve is not None]
    return any(gap > 1.5 * apart for gap in gaps)


def is_distillation(row: RunRow) -> bool:
    """Whether a tracked run is a variant's run, not a plan or a study."""
    return "variant" in row.tags and row.tags.get("seed", "").isdigit()


def make_groups(
    rows: Sequence[RunRow],
    *,
    finished: bool = False,
    planned: Planned | None = None,
    history: ReadHistory | None = None,
) -> Selection:
    """Runs to groups of equal settings, variants in the order of their first run.

    Labels are told apart among one experiment's groups on one teacher; see :func:`tell_apart`.

    Of several runs of one variant and seed (``--fresh``, or two machines) the finished one counts,
    else the newest; the others form groups of their own, as do other settings of the same name: a
    changed plan's are named by its changes, older ones by what was different.

    Args:
        finished: leave out all runs that are not finished.
        planned: what the registered plans say of settings; without it the newest are current.
        history: reads a run's complete curve, where its tags hold only some of the evaluations.
    """
    runs: list[SeedRun] = []
    notes: list[str] = []
    for row in sorted(rows, key=lambda row: row.start_time):
        state = state_of(row)
        if finished and state is not RunState.FINISHED:
            continue
        curve = read_curve(row.tags)
        if curve is not None and history is not None and is_thinned(row):
            try:
                curve = history(row)
            except WorkbenchError as error:
                notes.append(f"{row.name}: not every evaluation can be read. {error}")
        if curve is None or not curve.nimg:
            notes.append(f"{row.experiment}/{row.name} ({state}) has no evaluation; left out.")
            continue
        runs.append(SeedRun(row, curve, state))
    cells: dict[tuple[str, ...], list[SeedRun]] = {}
    for run in runs:
        cells.setdefault((*_settings(run.row), run.row.tags["seed"]), []).append(run)
    grouped: dict[tuple[str, ...], list[SeedRun]] = {}
    for key, repeated in cells.items():
        for rank, run in enumerate(sorted(repeated, key=_counts_first)):
            grouped.setdefault((*key[:-1], str(rank)), []).append(run)
    return Selection(_labelled(grouped, planned or {}), tuple(notes))


def _counts_first(run: SeedRun) -> tuple[bool, int]:
    return run.state is not RunState.FINISHED, -run.row.start_time


def _settings(row: RunRow) -> tuple[str, ...]:
    tags = row.tags
    return row.experiment, tags["variant"], tags.get("teacher", ""), tags.get("variant_hash", "")


def _labelled(
    grouped: Mapping[tuple[str, ...], Sequence[SeedRun]], planned: Planned
) -> tuple[Group, ...]:
    groups = {
        key: Group(
            label=key[1],
            experiment=key[0],
            variant=key[1],
            teacher=key[2],
            variant_hash=key[3],
            runs=tuple(sorted(runs, key=lambda run: run.seed)),
        )
        for key, runs in grouped.items()
    }
    labelled = []
    for key, group in groups.items():
        same = [other for k, other in groups.items() if k[:3] == key[:3] and k[-1] == "0"]
        marks = _marks(group, same, planned)
        if key[-1] != "0":
            marks.append("set aside" if key[-1] == "1" else f"set aside {key[-1]}")
        label = group.variant + (f" ({'; '.join(marks)})" if marks else "")
        labelled.append(replace(group, label=label))
    return tuple(labelled)


def _marks(group: Group, same: Sequence[Group], planned: Planned) -> list[str]:
    """What a group's settings are, where they are not the current ones of its name.

    Args:
        same: all groups of that experiment, variant and teacher.
    """
    if group.variant_hash in planned:
        changes = planned[group.variant_hash]
        own = [text for text in changes if text.partition("=")[0].strip() not in _NOT_SETTINGS]
        return [_listed(own)] if own else []  # the teacher is told by tell_apart
    current = max(same, key=lambda other: (planned.get(other.variant_hash) == (), other.started))
    if current.variant_hash == group.variant_hash:
        return []
    age = "older" if group.started < current.started else "other"
    return [f"{age}: {_difference(group.params, current.params)}"]


def tell_apart(groups: Iterable[Group]) -> tuple[Group, ...]:
    """The groups with labels that differ: with experiment, teacher and run where these do."""
    groups = tuple(groups)
    experiments = {group.experiment for group in groups}
    teachers: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        teachers.setdefault((group.experiment, group.variant), set()).add(group.teacher)
    labels = []
    for group in groups:
        many = len(teachers[group.experiment, group.variant]) > 1
        label = f"{group.label} on {group.teacher}" if many else group.label
        labels.append(f"{group.experiment}/{label}" if len(experiments) > 1 else label)
    return tuple(
        replace(group, label=label if labels.count(label) == 1 else f"{label} {_mark(group)}")
        for group, label in zip(groups, labels, strict=True)
    )


def _mark(group: Group) -> str:
    return f"[{group.runs[0].row.run_id[:6]}]"


def _difference(own: Mapping[str, str], other: Mapping[str, str]) -> str:
    """What another group's settings are, where they differ."""
    keys = [key for key in own if key not in _NOT_SETTINGS and own[key] != other.get(key)]
    return _listed([f"{key}={own[key]}" for key in keys]) or "other settings"


def _listed(settings: Sequence[str]) -> str:
    """The first few settings, and how many more there are."""
    more = len(settings) - _SHOWN_DIFFERENCES
    shown = settings[:_SHOWN_DIFFERENCES]
    return ", ".join([*shown, f"{more} more"] if more > 0 else shown)


def several_teachers(groups: Sequence[Group]) -> tuple[str, ...]:
    """A note where a figure leaves the teacher out, because its groups have several."""
    names = sorted({group.teacher for group in groups})
    return () if len(names) == 1 else (f"No teacher is drawn: there are {', '.join(names)}.",)
