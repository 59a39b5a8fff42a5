"""Setting a run aside, and giving its room back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from workbench.errors import MachineError, RequestError, WorkbenchError
from workbench.runs.description import sizes_in
from workbench.tracking import load_record, sync
from workbench.training.run_folder import RunFolder
from workbench.workspace import exclusive, is_held, partial_path


def check_idle(folders: Sequence[RunFolder]) -> None:
    """That nobody trains a run. Runs that started at its weights have a copy of them.

    Raises:
        RequestError: a process holds it.
    """
    for folder in folders:
        if is_held(folder.lock):
            raise RequestError(f"{folder.name} is running; stop it first.")


def archive(folder: RunFolder) -> RunFolder:
    """Set a run aside as ``run --fresh`` does: its command starts anew; nothing is deleted.

    Returns:
        The run under its new name.

    Raises:
        RequestError: it is archived already.
        AlreadyRunningError: a process holds the run.
        MachineError: the folder cannot be renamed.
    """
    if folder.is_archived:
        raise RequestError(f"{folder.name} is archived already.")
    with exclusive(folder.lock, folder.name):
        try:
            kept = folder.archive()
        except OSError as error:
            raise MachineError(f"{folder.name} cannot be renamed: {error}.") from error
    if kept is None:
        raise RequestError(f"{folder.name} is not there any more.")
    return RunFolder(kept)


def remove(folder: RunFolder, tracking_uri: str | None = None, *, unsent: bool = False) -> int:
    """Send what the tracking store does not have yet, then delete the folder.

    Args:
        tracking_uri: the run's own store, with the password that its address needs.
        unsent: also delete what the store does not have.

    Returns:
        bytes that are free again.

    Raises:
        RequestError: the store did not take everything, or the run was never tracked: nothing is
            deleted.
        AlreadyRunningError: a process holds the run.
        MachineError: the files cannot be deleted.
    """
    with exclusive(folder.lock, folder.name):
        if not unsent:
            _send(folder, tracking_uri)
        size = sum(sizes_in(folder.path).values())
        try:
            # Renamed first: whoever looks meanwhile sees a whole run or none.
            going = folder.path.rename(partial_path(folder.path.parent))
            shutil.rmtree(going)
        except OSError as error:
            raise MachineError(f"{folder.name} cannot be deleted: {error}.") from error
        if not folder.is_archived:  # else they are its successor's
            jobs = folder.path.parents[2] / "jobs" / folder.path.parent.name
            for file in (
                *jobs.glob(f"{folder.path.name}.*"),
                *jobs.glob(f"slurm/{folder.path.name}.job"),
            ):
                file.unlink()
        folder.lock.unlink(missing_ok=True)  # while it is held: nobody else can have opened it anew
    return size


def _send(folder: RunFolder, tracking_uri: str | None) -> None:
    if load_record(folder.path) is None:
        raise RequestError(
            f"{folder.name} stays: no tracking store was ever told of it. --unsent deletes it all "
            "the same."
        )
    try:
        left = sync(folder.path, tracking_uri)
    except WorkbenchError as error:
        stays = f"{folder.name} stays: {error} (--unsent deletes it all the same)"
        raise RequestError(stays) from error
    if left:
        raise RequestError(
            f"{folder.name} stays: the tracking store does not have {left} of its records yet. "
            "`workbench runs sync` sends them when it can be reached; --unsent drops them."
        )
