"""The states of a run, finer than MLflow's, and what this machine knows of them."""

from __future__ import annotations

import platform
from enum import StrEnum
from pathlib import Path

from workbench.runs.folder import RunFolder
from workbench.tracking import RunRow
from workbench.workspace import is_held

OUTCOME = "outcome"
"""Tag that holds a run's state: MLflow's own does not tell a pruned run from a stopped one."""


class RunState(StrEnum):
    """Where a run stands; PENDING is planned and not begun."""

    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


_OF_MLFLOW = {
    "FINISHED": RunState.FINISHED,
    "FAILED": RunState.FAILED,
    "KILLED": RunState.INTERRUPTED,
}


def state_of(row: RunRow) -> RunState:
    """The state of a tracked run.

    A run that the store believes running is interrupted if its process was on this machine and is
    gone; of other machines' runs the store knows best, and a person who ended one there.
    """
    ended = _OF_MLFLOW.get(row.status, RunState.RUNNING)
    try:
        state = RunState(row.tags[OUTCOME])
    except (KeyError, ValueError):
        state = ended
    if state is RunState.RUNNING:
        state = ended
    folder = row.tags.get("folder")
    here = folder is not None and row.tags.get("host") == platform.node()
    if state is RunState.RUNNING and here and not is_held(RunFolder(Path(str(folder))).lock):
        return RunState.INTERRUPTED
    return state
