"""A run's process from outside: what it printed, and asking it to stop."""

from __future__ import annotations

import math
import os
import platform
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from workbench.errors import MachineError, RequestError, WorkbenchError
from workbench.launching.slurm import SlurmHandle, find_submitted
from workbench.runs.spec import job_file
from workbench.tracking import Operation, journal_path, read_backwards, read_operations
from workbench.training.run_folder import RunFolder, find_run
from workbench.workspace import Workspace, holder_of, is_held

_POLL_SECONDS = 0.3

ItemT = TypeVar("ItemT")


def find_started(workspace: Workspace, reference: str) -> RunFolder:
    """A run as :func:`find_run` does, also one whose job has begun nothing yet.

    Raises:
        RequestError: no such run, or several.
    """
    for file in workspace.root.glob("jobs/*/*.json"):
        folder = RunFolder(workspace.runs / file.parent.name / file.stem)
        if reference == folder.name and not folder.config_file.exists():
            return folder
    return find_run(workspace, reference)


def stop_run(workspace: Workspace, folder: RunFolder) -> str:
    """Ask a run to write a checkpoint and end; does not wait for it.

    Returns:
        Who was asked, in words.

    Raises:
        RequestError: it does not go on, or goes on at another machine.
        WorkbenchError: Slurm did not take the message.
        MachineError: its process belongs to somebody else.
    """
    process = holder_of(folder.lock)
    try:
        submitted = find_submitted(workspace, folder)
    except WorkbenchError:  # no Slurm here; what was a job once may go on in a process here
        if process is None:
            raise
        submitted = None
    if submitted is not None:
        submitted.stop()
        return f"Slurm job {submitted.job_id}"
    if not is_held(folder.lock):
        raise RequestError(f"{folder.name} does not go on: there is nothing to stop.")
    if process is None:
        raise RequestError(_goes_on_elsewhere(folder))
    try:
        os.kill(process, signal.SIGTERM)
    except OSError as error:
        raise MachineError(f"Process {process} of {folder.name}: {error.strerror}.") from error
    return f"process {process}"


def _goes_on_elsewhere(folder: RunFolder) -> str:
    tags = (o.body["values"] for o in read_backwards(journal_path(folder.path)) if o.kind == "tags")
    host = next((str(values["host"]) for values in tags if values.get("host")), None)
    if host in (None, platform.node()):
        return (
            f"{folder.name} goes on in a process that cannot be told from here (another machine's "
            "or another container's): stop it where it was started."
        )
    return f"{folder.name} goes on at {host}: run this command there."


def log_file(workspace: Workspace, folder: RunFolder) -> Path | None:
    """What a run's own process prints, over all its starts; None where it had a terminal."""
    started = job_file(workspace, folder, ".json").exists()
    return job_file(workspace, folder, ".log") if started else None


def log_lines(
    workspace: Workspace, folder: RunFolder, *, last: int | None = None, follow: bool = False
) -> Iterator[str]:
    """What a run's process printed, else what its journal tells.

    Args:
        last: only so many lines of what is there already.
        follow: go on with what is added until the run ends.

    Raises:
        WorkbenchError: as :func:`find_submitted`, when following.
    """
    file = log_file(workspace, folder)
    new = _Journal(folder).new if file is None else _Text(file).new
    there = new()
    yield from there if last is None else deque(there, maxlen=last)
    if follow:
        yield from _followed(new, _Ending(workspace, folder))


class _Ending:
    """Whether a run has ended, asking Slurm's queue no more often than it likes."""

    def __init__(self, workspace: Workspace, folder: RunFolder) -> None:
        self._folder = folder
        # Of what is finished or goes on here no queue has to be asked.
        known = folder.results_file.exists() or holder_of(folder.lock) is not None
        self._job: SlurmHandle | None = None if known else find_submitted(workspace, folder)

    def __call__(self) -> bool:
        if is_held(self._folder.lock):
            return False
        return self._job is None or self._job.poll() is not None


def _followed(new: Callable[[], Iterable[ItemT]], ended: Callable[[], bool]) -> Iterator[ItemT]:
    last_look = False
    while not last_look:
        last_look = ended()  # before looking: what it said last is seen all the same
        yield from new()
        if not last_look:
            time.sleep(_POLL_SECONDS)


class _Text:
    """The whole lines of a file that grows."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0

    def new(self) -> Iterator[str]:
        if not self._file.exists():  # its Slurm job waits
            return
        with self._file.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield line.decode(errors="replace").rstrip("\r\n")


class _Journal:
    """A run's journal as lines for people."""

    def __init__(self, folder: RunFolder) -> None:
        self._file, self._read = journal_path(folder.path), 0

    def new(self) -> Iterator[str]:
        for operation in read_operations(self._file, self._read):
            self._read = operation.end
            when = datetime.fromtimestamp(operation.time / 1000).strftime("%Y-%m-%d %H:%M:%S")
            yield from (f"{when}  {text}" for text in _told(operation))


def _told(operation: Operation) -> Iterator[str]:
    body = operation.body
    if operation.kind == "status":
        yield str(body["status"])
    if operation.kind == "tags" and (warning := body["values"].get("last_warning")):
        yield f"Warning: {warning}"
    if operation.kind == "metrics":
        values = {name: float(value) for name, value in body["values"].items()}
        shown = [f"{name} {value:.4g}" for name, value in values.items() if _is_told(name, value)]
        if shown:
            yield f"{int(body['step']) / 1000:g} kimg  " + "  ".join(shown)


def _is_told(name: str, value: float) -> bool:
    return not math.isnan(value) and not name.startswith("system/")
