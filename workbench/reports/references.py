"""What a person may name: an experiment, one of its variants, or a run by any of its names."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from workbench.errors import NoRunsError, RequestError, unknown_name
from workbench.metrics import score_of
from workbench.reports.groups import (
    Group,
    Planned,
    Selection,
    is_distillation,
    make_groups,
    shortened,
    tell_apart,
)
from workbench.reports.planned import find_plans, main_runs
from workbench.tracking import (
    Curve,
    Point,
    RunRow,
    curve_of,
    default_uri,
    list_runs,
    load_record,
    metric_history,
)
from workbench.tracking.curve import EVALUATIONS, SECONDS
from workbench.workspace import Workspace, open_workspace

_ALL = 100_000
_SHORTEST_ID = 6


class Chosen(NamedTuple):
    """Runs that a script's options name, and where they were looked for."""

    selection: Selection
    workspace: Workspace
    uri: str


def chosen_runs(
    options: argparse.Namespace, *, finished: bool = False, allow_mixed: bool = False
) -> Chosen:
    """The runs of a script's ``--experiment``, ``--workspace`` and ``--tracking-uri``.

    Raises:
        RequestError: as :func:`select`.
        WorkbenchError: the store does not answer.
    """
    named = options.experiment
    references = [named] if isinstance(named, str) else named
    workspace = open_workspace(options.workspace, create=False)
    uri = options.tracking_uri or default_uri(workspace.root)
    found = select(uri, workspace, references, finished=finished, allow_mixed=allow_mixed)
    return Chosen(found, workspace, uri)


def select(
    tracking_uri: str,
    workspace: Workspace,
    references: Sequence[str],
    *,
    finished: bool = False,
    allow_mixed: bool = False,
    hashes: Collection[str] | None = None,
    changed: bool = False,
) -> Selection:
    """Groups whose scores of training compare; see :func:`select_groups`.

    Args:
        allow_mixed: compare scores of different evaluations too.

    Raises:
        RequestError: as :func:`select_groups`, or the runs were evaluated in different ways.
    """
    found = select_groups(
        tracking_uri, workspace, references, finished=finished, hashes=hashes, changed=changed
    )
    return comparable(found, allow_mixed=allow_mixed)


def select_groups(
    tracking_uri: str,
    workspace: Workspace,
    references: Sequence[str],
    *,
    finished: bool = False,
    hashes: Collection[str] | None = None,
    changed: bool = False,
) -> Selection:
    """The groups behind references, in their order, each group once.

    A reference is an experiment, ``experiment/variant``, or a run: its name, the name or path of
    its folder (as ``workbench runs list`` prints it), its MLflow id or six digits of it.

    Args:
        finished: only finished runs count.
        hashes: only runs of these variants' settings (a plan's), whatever else has their names.
        changed: also runs of plans with ``--set`` or ``--teacher``, where finished runs of the plan
            without are there.

    Raises:
        RequestError: unknown (names the nearest), or nothing to compare.
        WorkbenchError: the store does not answer.
    """
    store = _Store(tracking_uri, workspace)
    groups: dict[frozenset[str], Group] = {}
    notes = store.notes
    for reference in references:
        rows, name = store.find(reference)
        planned: Planned = store.planned if hashes is None else {}
        if hashes is not None:
            rows = [row for row in rows if row.tags.get("variant_hash") in hashes]
        elif not changed:
            rows, left_out = main_runs(rows, planned)
            notes += left_out
        found = make_groups(rows, finished=finished, planned=planned, history=store.history)
        notes += found.notes
        for group in found.groups:
            named = replace(group, label=name) if name is not None else group
            groups.setdefault(frozenset(run.row.run_id for run in group.runs), named)
    if not references:
        raise NoRunsError("Name experiments, EXPERIMENT/VARIANT or runs: there is none yet.")
    if not groups:
        what = " and ".join(repr(reference) for reference in references)
        state = "finished run" if finished else "evaluated run"
        raise NoRunsError(f"{what}: there is no {state} to compare yet.")
    return Selection(tell_apart(groups.values()), tuple(dict.fromkeys(notes)))


class _Store:
    """Reads each experiment once, and the whole store only for a run without its experiment.

    ``planned`` and ``notes`` grow with what was read; see :func:`find_plans`.
    """

    def __init__(self, tracking_uri: str, workspace: Workspace) -> None:
        self._uri = tracking_uri
        self._workspace = workspace
        self._read: dict[str | None, list[RunRow]] = {}
        self.planned: dict[str, tuple[str, ...]] = {}
        self.notes: list[str] = []

    def history(self, row: RunRow) -> Curve:
        """A run's evaluations as its metrics hold them, each of them."""
        keys = [key for key in row.metrics if score_of(key) or key in (SECONDS, EVALUATIONS)]
        found = metric_history(self._uri, row.run_id, keys)
        points = zip(found["key"], found["step"], found["value"], found["timestamp"], strict=True)
        return curve_of(Point(*point) for point in points)

    def find(self, reference: str) -> tuple[list[RunRow], str | None]:
        """The runs of a reference, and the label of a reference to a single run."""
        experiment, slash, rest = reference.partition("/")
        try:
            rows = self._rows(experiment)
        except RequestError:
            rows = self._rows(None)  # not an experiment's name; a wrong address is refused here too
            slash, rest = "", reference
        else:
            if not slash:
                return rows, None
            variant = [row for row in rows if row.tags["variant"] == rest]
            if variant:
                return variant, None
        found = self._runs(rows, reference, rest)
        if not found:
            known = {row.experiment for row in rows}
            if slash:
                known = {f"{row.experiment}/{row.tags['variant']}" for row in rows}
            raise unknown_name("experiment, variant or run", reference, known)
        names = {row.name for row in found}
        return found, names.pop() if len(found) == 1 else None

    def _runs(self, rows: Sequence[RunRow], reference: str, rest: str) -> list[RunRow]:
        run_id = self._id_of_folder(reference)
        if run_id is not None:
            return [row for row in rows if row.run_id == run_id] or [
                row for row in self._rows(None) if row.run_id == run_id
            ]
        exact = [row for row in rows if rest in (row.name, row.run_id, _folder_name(row))]
        if exact:
            return exact
        begun = [row for row in rows if row.run_id.startswith(rest)]
        return begun if len(rest) >= _SHORTEST_ID and len(begun) == 1 else []

    def _id_of_folder(self, reference: str) -> str | None:
        """The MLflow run of a run's folder: also of one that was set aside and renamed."""
        for folder in (self._workspace.runs / reference, Path(reference)):
            if (folder / "config.json").is_file():
                record = load_record(folder)
                return None if record is None else record.run_id
        return None

    def _rows(self, experiment: str | None) -> list[RunRow]:
        if experiment not in self._read:
            rows = list_runs(self._uri, experiment, limit=_ALL)
            self._read[experiment] = [row for row in rows if is_distillation(row)]
            planned, notes = find_plans(rows)
            self.planned |= planned
            self.notes += notes
        return self._read[experiment]


def _folder_name(row: RunRow) -> str:
    return Path(row.tags.get("folder", "")).name


def comparable(selection: Selection, *, allow_mixed: bool = False) -> Selection:
    """Refuses scores that mean different things; with ``allow_mixed`` notes a warning instead.

    Raises:
        RequestError: the runs were evaluated in different ways.
    """
    groups = selection.groups
    protocols: dict[str, list[Group]] = {}
    for group in groups:
        for protocol in sorted({run.protocol for run in group.runs}):
            protocols.setdefault(protocol, []).append(group)
    if len(protocols) < 2:
        return selection
    parts = [
        f"{shortened([group.label for group in members])} by {protocol}"
        f"{_circumstances(members[0], protocol)}"
        for protocol, members in protocols.items()
    ]
    text = f"The runs were evaluated in {len(protocols)} ways: {'; '.join(parts)}."
    if not allow_mixed:
        raise RequestError(
            f"{text} Their scores do not compare; --allow-mixed shows them all the same."
        )
    warning = f"{text} Scores of different evaluations do not compare."
    return replace(selection, notes=(*selection.notes, warning))


def _circumstances(group: Group, protocol: str) -> str:
    """What of an evaluation a person can recognise."""
    row = next(run.row for run in group.runs if run.protocol == protocol)
    seed = row.params.get("evaluation.seed")
    known = {
        "samples": row.params.get("evaluation.samples"),
        "seed": None if seed == "null" else seed,  # protocols of before held it
        "torch": row.tags.get("version.torch"),
        "diffusers": row.tags.get("version.diffusers"),
    }
    shown = ", ".join(f"{key} {value}" for key, value in known.items() if value is not None)
    return f" ({shown})" if shown else ""
