"""The states of a run, finer than MLflow's, and what this machine knows of them."""

from __future__ import annotations

import platform
import time
from enum import StrEnum
from pathlib import Path

from workbench.tracking import SEEN_ALIVE, RunRow
from workbench.training.run_folder import RunFolder
from workbench.workspace import is_held

OUTCOME = "outcome"
"""Tag that holds a run's state: MLflow's own does not tell a pruned run from a stopped one."""

SILENT_SECONDS = 1800.0
"""After so long without a sign of life a run of another machine counts as interrupted: long enough
for a store that is restarted or unreachable for a while, and for clocks that differ by minutes."""


class RunState(StrEnum):
    """Where a run stands; PENDING is planned and not begun, ARCHIVED a folder that is set aside."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    ARCHIVED = "archived"


_OF_MLFLOW = {
    "FINISHED": RunState.FINISHED,
    "FAILED": RunState.FAILED,
    "KILLED": RunState.INTERRUPTED,
}


def state_of(row: RunRow) -> RunState:
    """The state of a tracked run.

    A run that the store believes running is interrupted if its process was on this machine and is
    gone, or if it was on another one that has given no sign of life for ``SILENT_SECONDS``. Should
    that one only have lost its way to the store, it is running again with its next sign.
    """
    ended = _OF_MLFLOW.get(row.status, RunState.RUNNING)
    try:
        state = RunState(row.tags[OUTCOME])
    except (KeyError, ValueError):
        state = ended
    if state is RunState.RUNNING:
        state = ended
    return RunState.INTERRUPTED if state is RunState.RUNNING and _is_gone(row) else state


def _is_gone(row: RunRow) -> bool:
    folder = row.tags.get("folder")
    if folder is not None and row.tags.get("host") == platform.node():
        return not is_held(RunFolder(Path(folder)).lock)
    try:
        return time.time() - float(row.tags[SEEN_ALIVE]) > SILENT_SECONDS
    except (KeyError, ValueError):
        return False
