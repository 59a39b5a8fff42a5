"""Runs that another workspace has taken on, for people who share one tracking store."""

from __future__ import annotations

from workbench.runs.state import RunState, state_of
from workbench.tracking import RunRow, default_uri, list_runs
from workbench.training.config import RunConfig
from workbench.training.run_folder import run_folder
from workbench.workspace import Workspace


def taken_elsewhere(config: RunConfig, workspace: Workspace, tracking_uri: str) -> RunRow | None:
    """A run of equal settings that is finished or running in another workspace, if there is one.

    None where the store is this workspace's own, and where the run was begun here.

    Raises:
        WorkbenchError: the store does not answer.
    """
    if tracking_uri == default_uri(workspace.root) or run_folder(workspace, config).path.exists():
        return None
    where = f"tags.experiment = '{config.experiment}' AND tags.config = '{config.fingerprint()}'"
    taken = (RunState.FINISHED, RunState.RUNNING)
    rows = list_runs(tracking_uri, limit=100, where=where)
    return next((row for row in rows if state_of(row) in taken), None)


def host_of(row: RunRow) -> str:
    """The machine that does or did a run, for people."""
    return row.tags.get("host", "another machine")
