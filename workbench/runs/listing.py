"""Runs as a table: this workspace's folders, and what other machines track in the same store."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.metrics import METRICS
from workbench.runs.state import state_of
from workbench.runs.summary import summarize
from workbench.runs.tags import RUN_KIND
from workbench.tracking import KIND, RunRow, default_uri, list_runs, load_record
from workbench.training.run_folder import RunFolder, all_runs
from workbench.workspace import Workspace

_AT_MOST = 100_000  # rows that are asked of a store

COLUMNS = ("run", "experiment", "variant", "seed", "teacher", "method", "state", "kimg", "host")
"""What runs can be sorted by, besides ``score``, ``best`` and each metric."""


@dataclass(frozen=True)
class RunFilter:
    """Which runs: for each column the values of which one must be met; an empty one takes all."""

    experiment: Collection[str] = ()
    variant: Collection[str] = ()
    seed: Collection[int] = ()
    teacher: Collection[str] = ()
    method: Collection[str] = ()
    state: Collection[str] = ()

    def takes(self, row: Mapping[str, Any]) -> bool:
        wanted = {field.name: getattr(self, field.name) for field in fields(self)}
        return all(not values or row[name] in values for name, values in wanted.items())


def find_rows(
    workspace: Workspace,
    tracking_uri: str | None,
    chosen: RunFilter,
    say: Callable[[str], None],
    *,
    local: bool = False,
) -> list[dict[str, Any]]:
    """A row of :func:`~workbench.runs.summary.summarize` for each run, by name.

    ``folder`` is None for a run of the store that has no folder in this workspace: another
    machine's, or one that was removed here.

    Args:
        tracking_uri: the store; None for the workspace's own.
        say: told when the store does not answer; the folders are listed all the same.
        local: this workspace's folders alone.
    """
    folders = [folder for folder in all_runs(workspace) if _may_be(folder, chosen)]
    rows = [summarize(folder) for folder in folders]
    if not local:
        try:
            rows += [_of_store(row) for row in _stored(workspace, tracking_uri, folders, chosen)]
        except RequestError:
            raise  # an address that is none
        except WorkbenchError as error:
            say(f"Only this workspace's runs: {error}")
    return sorted(filter(chosen.takes, rows), key=lambda row: str(row["run"]))


def sort_rows(rows: Sequence[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    """Rows by a column, descending where it begins with ``-``; those without a value come last.

    Raises:
        RequestError: no row has such a column; names the nearest.
    """
    name = column.removeprefix("-")
    scores = {key for row in rows for key, value in row.items() if isinstance(value, float)}
    known = {*COLUMNS, *METRICS, "score", "best", *scores}
    if name not in known:
        raise unknown_name("column", name, known)
    there = [row for row in rows if not _is_missing(row.get(name))]
    there.sort(key=lambda row: row[name], reverse=column.startswith("-"))
    return there + [row for row in rows if _is_missing(row.get(name))]


def host_in_store(workspace: Workspace, tracking_uri: str | None, name: str) -> str | None:
    """The machine of a run that the store knows and the workspace does not have."""
    rows = find_rows(workspace, tracking_uri, RunFilter(), lambda problem: None)
    return next((row["host"] for row in rows if row["run"] == name), None)


def _may_be(folder: RunFolder, chosen: RunFilter) -> bool:
    """Without looking into it."""
    return not chosen.experiment or folder.path.parent.name in chosen.experiment


def _stored(
    workspace: Workspace,
    tracking_uri: str | None,
    folders: Sequence[RunFolder],
    chosen: RunFilter,
) -> list[RunRow]:
    """The store's runs that are in none of the folders."""
    uri = tracking_uri or default_uri(workspace.root)
    where = f"tags.{KIND} = '{RUN_KIND}'"
    if len(chosen.experiment) == 1 and "'" not in (name := next(iter(chosen.experiment))):
        where += f" AND tags.experiment = '{name}'"
    found = list_runs(uri, limit=_AT_MOST, where=where)
    records = [_record_id(folder) for folder in folders] if found else []
    return [row for row in found if row.run_id not in records]


def _record_id(folder: RunFolder) -> str | None:
    try:
        record = load_record(folder.path)
    except RequestError:  # damaged: the run is listed all the same
        return None
    return None if record is None else record.run_id


def _of_store(row: RunRow) -> dict[str, Any]:
    tags, scores = row.tags, row.last_scores
    experiment = tags.get("experiment", row.experiment)
    own = f"{experiment}/{row.name}"
    return {
        "run": f"{own}-{tags['config']}" if "config" in tags else own,
        "state": state_of(row).upper(),
        "kimg": float(row.metrics.get("perf/kimg", 0.0)),
        "total_kimg": _number(row.params.get("training.kimg")),
        "primary_metric": row.primary,
        "score": scores.get(row.primary or ""),
        "best": row.best_scores.get(row.primary or ""),
        **scores,
        "folder": None,
        "experiment": experiment,
        "variant": tags.get("variant"),
        "seed": _number(tags.get("seed")),
        "teacher": tags.get("teacher"),
        "method": tags.get("method"),
        "host": tags.get("host"),
    }


def _number(text: str | None) -> float | int | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return int(value) if value.is_integer() else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
