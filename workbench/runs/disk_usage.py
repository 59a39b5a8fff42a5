"""What is on disk, what of it nothing needs any more and why, and dropping that."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import MachineError, RequestError
from workbench.runs.archive import remove
from workbench.runs.cached import STUDY_FILE, unnamed_caches
from workbench.runs.description import sizes_in
from workbench.training.run_folder import RunFolder, all_runs
from workbench.workspace import PARTIAL, Workspace, exclusive, is_held, partial_path

_LEFT_OVER_SECONDS = 24 * 3600.0
"""What nobody has touched for so long is not being written any more."""

_OTHER = "other files under runs"


@dataclass(frozen=True)
class Droppable:
    """A file or folder that may go.

    Attributes:
        size: bytes.
        reason: why it may go, for people.
        run: whose it is, or that it is itself.
        lock: whoever writes there holds it.
        again: looks anew at what of its kind may go.
    """

    path: Path
    size: int
    reason: str
    run: RunFolder | None = None
    lock: Path | None = None
    again: Callable[[], Iterable[Droppable]] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "bytes": self.size, "reason": self.reason}


def disk_usage(workspace: Workspace) -> list[dict[str, Any]]:
    """Bytes by part of every run, largest first, and then of what the workspace keeps beside them.

    A run that was set aside is named as it is found, with ``~`` and a number. ``droppable`` are the
    bytes of what ``runs gc --archived`` drops.
    """
    rows = [_row(folder.name, sizes_in(folder.path)) for folder in all_runs(workspace)]
    rows.sort(key=lambda row: -row["bytes"])
    known = sum(row["bytes"] for row in rows)
    beside = sizes_in(workspace.root)
    left = beside.pop(workspace.runs.name, 0) - known
    rows += [_row(name, {name: size}) for name, size in beside.items()]
    rows += [_row(_OTHER, {"files": left})] * (left > 0)
    by_name = {row["what"]: row for row in rows}
    for item in droppable(workspace, archived=True):
        if (row := by_name.get(_part_of(workspace, item.path, by_name))) is not None:
            row["droppable"] += item.size
    return rows


def _row(what: str, sizes: dict[str, int]) -> dict[str, Any]:
    return {"what": what, "sizes": sizes, "bytes": sum(sizes.values()), "droppable": 0}


def _part_of(workspace: Workspace, path: Path, known: Mapping[str, Any]) -> str:
    """The row of :func:`disk_usage` that a path is counted in."""
    parts = path.relative_to(workspace.root).parts
    if parts[0] != workspace.runs.name:
        return parts[0] if len(parts) > 1 else "files"
    name = "/".join(parts[1:3])
    return name if name in known else _OTHER


def droppable(workspace: Workspace, *, archived: bool = False) -> list[Droppable]:
    """Everything that nothing needs any more. A run that goes on needs all that it has.

    Args:
        archived: also runs that were set aside.
    """
    runs = list(all_runs(workspace))
    aside = [run for run in runs if archived and run.is_archived]
    found = [_measured(Droppable(run.path, 0, "it is archived", run, run.lock)) for run in aside]
    for run in runs:
        if run not in aside and not is_held(run.lock):
            found += map(_measured, _of_checkpoints(run))
    for caches in unnamed_caches(workspace, runs):
        found.append(_measured(Droppable(caches.path, 0, caches.reason, lock=caches.lock)))
    found += map(_measured, _orphaned_jobs(workspace))
    places = {item.path for item in found}
    for item in _left_overs(workspace, runs):
        if places.isdisjoint((item.path, *item.path.parents)):
            found.append(_measured(item))
    return found


def drop(item: Droppable, tracking_uri: str | None = None) -> None:
    """Delete it, unless it is needed by now; an archived run is sent to its store first.

    Raises:
        RequestError: an archived run's store does not have all of it, or it is needed by now.
        AlreadyRunningError: somebody works there.
        MachineError: it cannot be deleted.
    """
    if item.run is not None and item.path == item.run.path:
        remove(item.run, tracking_uri)
        return
    with ExitStack() as held:
        if item.lock is not None:
            held.enter_context(exclusive(item.lock, item.run.name if item.run else str(item.path)))
        if item.again is not None and item.path not in {now.path for now in item.again()}:
            raise RequestError(f"{item.path} is needed by now; it stays.")
        try:
            if item.path.is_dir():
                # Renamed first: whoever looks meanwhile sees all of it or nothing.
                shutil.rmtree(item.path.rename(partial_path(item.path)))
            else:
                item.path.unlink(missing_ok=True)
        except OSError as error:
            raise MachineError(f"{item.path} cannot be deleted: {error}.") from error


def _measured(item: Droppable) -> Droppable:
    size = 0
    with suppress(FileNotFoundError):
        is_folder = item.path.is_dir()
        size = sum(sizes_in(item.path).values()) if is_folder else item.path.lstat().st_size
    return replace(item, size=size)


def _of_checkpoints(run: RunFolder) -> Iterator[Droppable]:
    """What a finished run no longer needs, and what was cut off while it was written.

    A student is loaded from the last whole checkpoint, or at the kimg of the best evaluation.
    """
    again = partial(_of_checkpoints, run)
    places = (run.checkpoints, run.checkpoints / "best")
    for path in (path for place in places for path in place.glob(".partial-*")):
        yield Droppable(path, 0, "cut off while it was written", run, run.lock, again)
    paths = [path for place in places for path in place.glob("nimg-*")]
    if not run.results_file.exists() or len(paths) < 2:
        return
    from workbench.training.checkpoint import average_at, latest_checkpoint, read_manifest

    last = latest_checkpoint(run.checkpoints, lambda problem: None)
    if last is None:  # nothing is sure here
        return
    best = read_manifest(last)["progress"].get("best_nimg")
    kept = {last, None if best is None else average_at(run.checkpoints, best)}
    for path in paths:
        if path not in kept:
            reason = "the run is finished, and this is neither its last nor its best"
            yield Droppable(path, 0, reason, run, run.lock, again)


def _orphaned_jobs(workspace: Workspace) -> Iterator[Droppable]:
    """Files of jobs whose run is gone, unless Slurm may still start it."""
    for settings in sorted((workspace.root / "jobs").glob("*/*.json")):
        if settings.name == STUDY_FILE:
            continue
        name, folder = settings.stem, settings.parent
        submission = folder / "slurm" / f"{name}.job"
        files = [settings, *folder.glob(f"{name}.log*")]
        if submission.exists():
            number = submission.read_text(encoding="utf-8").strip()
            if not (folder / "slurm" / f"{number}.exit").exists():
                continue
            files += [submission, *(folder / "slurm").glob(f"{number}[._]*")]
        run = RunFolder(workspace.runs / folder.name / name)
        there = run.path.exists() or any(run.path.parent.glob(f"{name}~*"))
        if not there and _is_left_over(files):
            reason = f"the run {run.name} is gone"
            gone = [Droppable(file, 0, reason, lock=run.lock) for file in files]
            yield from (replace(item, again=partial(_unless_there, run, gone)) for item in gone)


def _unless_there(run: RunFolder, files: Sequence[Droppable]) -> Sequence[Droppable]:
    return () if run.path.exists() else files


def _left_overs(workspace: Workspace, runs: Sequence[RunFolder]) -> Iterator[Droppable]:
    """What a process that died was writing aside."""
    by_path = {run.path: run for run in runs}
    for path in sorted(workspace.root.rglob(f".*{PARTIAL}")):
        run = next((by_path[parent] for parent in path.parents if parent in by_path), None)
        held = run is not None and is_held(run.lock)
        if not held and _is_left_over([path, *path.rglob("*")]):
            reason = "left over by a process that died"
            yield Droppable(path, 0, reason, run, run.lock if run else None)


def _is_left_over(paths: Sequence[Path]) -> bool:
    newest = 0.0
    for path in paths:
        with suppress(FileNotFoundError):
            newest = max(newest, path.lstat().st_mtime)
    return time.time() - newest > _LEFT_OVER_SECONDS
