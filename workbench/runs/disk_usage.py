"""What runs take on disk, and giving it back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from workbench.errors import RequestError, WorkbenchError
from workbench.runs.description import sizes_of
from workbench.runs.folder import RunFolder, all_runs, matching_runs
from workbench.runs.start_variant import StartVariant, starts_at
from workbench.tracking import sync
from workbench.workspace import Workspace, exclusive, is_held


def disk_usage(workspace: Workspace) -> list[dict[str, Any]]:
    """Bytes by part of every run, largest first, and then of what the workspace keeps beside them.

    A run that ``run --fresh`` put aside is named as it is found, with ``~`` and a number.
    """
    rows: list[dict[str, Any]] = []
    for folder in all_runs(workspace):
        sizes = sizes_of(folder)
        rows.append({"what": folder.name, "sizes": sizes, "bytes": sum(sizes.values())})
    rows.sort(key=lambda row: -row["bytes"])
    for place in sorted(workspace.root.iterdir()) if workspace.root.is_dir() else []:
        if place.is_dir() and place != workspace.runs:
            sizes = sizes_of(RunFolder(place))
            rows.append({"what": place.name, "sizes": sizes, "bytes": sum(sizes.values())})
    return rows


def check_removable(workspace: Workspace, folders: Sequence[RunFolder]) -> None:
    """That nobody trains a run and that no other run needs it.

    Raises:
        RequestError: a process holds it, or another run starts at its weights.
    """
    for folder in folders:
        if is_held(folder.lock):
            raise RequestError(f"{folder.name} is running; stop it first.")
    staying = (run for run in all_runs(workspace) if run not in folders)
    for other in staying:
        if _starts_at(workspace, other, folders):
            names = ", ".join(folder.name for folder in folders)
            raise RequestError(
                f"{other.name} starts at the weights of {names}. Remove it first, or both at once."
            )


def remove(folder: RunFolder) -> int:
    """Send what the tracking store does not have yet, then delete the folder.

    Returns:
        bytes that are free again.

    Raises:
        RequestError: the store did not take everything: nothing is deleted.
        AlreadyRunningError: a process holds the run.
    """
    try:
        left = sync(folder.path)
    except WorkbenchError as error:
        raise RequestError(f"{folder.name} stays: {error}") from error
    if left:
        raise RequestError(
            f"{folder.name} stays: the tracking store does not have {left} of its records yet. "
            "Send them with `workbench runs sync` when it can be reached."
        )
    size = sum(sizes_of(folder).values())
    with exclusive(folder.lock, folder.name):
        shutil.rmtree(folder.path)
    folder.lock.unlink(missing_ok=True)
    return size


def _starts_at(workspace: Workspace, other: RunFolder, folders: Sequence[RunFolder]) -> bool:
    config = other.config()
    if config.start is None:
        return False
    if StartVariant.of(config) is not None:
        return any(starts_at(config, folder.config()) for folder in folders)
    named = matching_runs(workspace, config.start.split("@")[0])
    return any(folder.path == run.path for folder in folders for run in named)
