"""Runs that another workspace has taken on, for people who share one tracking store."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.runs.folder import run_folder
from workbench.runs.state import RunState, state_of
from workbench.tracking import RunRow, default_uri, list_runs
from workbench.training.config import RunConfig
from workbench.workspace import Workspace

_TAKEN = (RunState.FINISHED, RunState.RUNNING)


def taken_elsewhere(
    configs: Sequence[RunConfig], workspace: Workspace, tracking_uri: str
) -> dict[int, RunRow]:
    """Place in ``configs`` -> a run of equal settings that is finished or running elsewhere.

    Nothing where the store is this workspace's own, and nobody else writes to it.

    Raises:
        WorkbenchError: the store does not answer.
    """
    if tracking_uri == default_uri(workspace.root) or not configs:
        return {}
    where = f"tags.experiment = '{configs[0].experiment}'"
    rows = list_runs(tracking_uri, limit=10_000, where=where)
    taken: dict[int, RunRow] = {}
    for place, config in enumerate(configs):
        if run_folder(workspace, config).path.exists():
            continue
        fingerprint = config.fingerprint()
        for row in rows:
            if row.tags.get("config") == fingerprint and state_of(row) in _TAKEN:
                taken[place] = row
    return taken
