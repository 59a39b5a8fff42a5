"""A run in one line, from its folder alone: without torch, and without its whole journal."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

from workbench.errors import RequestError
from workbench.metrics import DRIFT, EVAL, primary_of, score_of
from workbench.runs.state import OUTCOME, RunState
from workbench.tracking import Operation, journal_path, read_backwards
from workbench.training.events import total_images
from workbench.training.run_folder import RunFolder
from workbench.workspace import is_held

_PROGRESS = (f"{EVAL}/", f"{DRIFT}/", "train/")


def summarize(folder: RunFolder) -> dict[str, Any]:
    """State, progress in kimg, last scores by name, and which of them judges the run.

    ``score`` and ``best`` are the last and the best value of that one, ``primary_metric``.
    ``state`` is a :class:`~workbench.runs.state.RunState` in capitals: RUNNING while a process
    holds the run, INTERRUPTED if one died holding it, ARCHIVED if the folder is set aside, else the
    one that the run ended in.

    Raises:
        RequestError: the run's configuration cannot be read.
    """
    settings = _settings(folder)
    newest = _Newest()
    for operation in read_backwards(journal_path(folder.path)):
        newest.hear(operation)
        if newest.complete:
            break
    return {
        "run": folder.name,
        "state": _state(folder, newest.outcome).upper(),
        "kimg": (newest.step or 0) / 1000,
        "total_kimg": _total_images(folder, settings) / 1000,
        "primary_metric": newest.primary,
        "score": newest.scores.get(newest.primary or ""),
        "best": newest.best,
        **newest.scores,
        "folder": str(folder.path),
        "experiment": folder.path.parent.name,
        "variant": settings.get("variant"),
        "seed": settings.get("seed"),
        "teacher": settings.get("teacher"),
        "method": settings.get("method", {}).get("name"),
        "host": platform.node(),
    }


class _Newest:
    """The last value of everything asked for, heard from the last line to the first.

    Steps only grow along a journal: what a resumed run measures again is not written again. A run
    ends behind its last point, and says so when it goes on; so an outcome before it is past.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.primary: str | None = None
        self.scores: dict[str, float] = {}
        self.best: float | None = None
        self.outcome: str | None = None

    @property
    def complete(self) -> bool:
        return self.step is not None and bool(self.scores)

    def hear(self, operation: Operation) -> None:
        if operation.kind == "tags" and self.outcome is None:
            self.outcome = operation.body["values"].get(OUTCOME)
        if operation.kind == "status" and self.outcome is None:
            status = str(operation.body["status"])  # KILLED may be either, which a tag tells
            self.outcome = None if status == "KILLED" else status.lower()
        if operation.kind != "metrics":
            return
        values = operation.body["values"]
        if self.step is None and any(key.startswith(_PROGRESS) for key in values):
            self.step = int(operation.body["step"])
        # An evaluation is one operation, with the best so far.
        scores = {name: float(v) for key, v in values.items() if (name := score_of(key))}
        if scores and not self.scores:
            self.scores, self.primary = scores, primary_of(values)
            best = values.get(f"best/{self.primary}")  # there is none before a finite score
            self.best = None if best is None else float(best)


def _state(folder: RunFolder, outcome: str | None) -> RunState:
    if folder.is_archived:
        return RunState.ARCHIVED
    if folder.results_file.exists():
        return RunState.FINISHED
    if is_held(folder.lock):
        return RunState.RUNNING
    ended = (RunState.FAILED, RunState.PRUNED)
    return next((state for state in ended if state == outcome), RunState.INTERRUPTED)


def _settings(folder: RunFolder) -> Mapping[str, Any]:
    try:
        return dict(json.loads(folder.config_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: RunFolder, error: Exception) -> RequestError:
    return RequestError(f"{folder.config_file} is not a run's configuration: {error}.")


def _total_images(folder: RunFolder, settings: Mapping[str, Any]) -> int:
    try:
        training = settings["training"]
        return total_images(float(training["kimg"]), int(training["batch_size"]))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(folder, error) from error
