"""A run in one line, from its folder alone."""

from __future__ import annotations

from typing import Any

from filelock import FileLock, Timeout

from workbench.runs.folder import RunFolder
from workbench.tracking import last_status, read_points

_KEYS = ("eval/fid", "eval/alignment", "best/fid")


def summary(folder: RunFolder) -> dict[str, Any]:
    """State, progress in kimg, last scores and best FID.

    The state is RUNNING while a process holds the run, INTERRUPTED if one died holding it, else
    the one that the run ended in.
    """
    last: dict[str, tuple[int, float]] = {}
    for point in read_points(folder.path):
        if point.key in _KEYS or point.key.startswith("train/"):
            key = point.key if point.key in _KEYS else "train"
            last[key] = max(last.get(key, (-1, 0.0)), (point.step, point.value))
    kimg = max((step for step, _ in last.values()), default=0) / 1000
    config = folder.config()
    return {
        "run": folder.name,
        "state": _state(folder),
        "kimg": kimg,
        "total_kimg": config.total_nimg / 1000,
        "fid": last.get("eval/fid", (0, None))[1],
        "alignment": last.get("eval/alignment", (0, None))[1],
        "best_fid": last.get("best/fid", (0, None))[1],
        "folder": str(folder.path),
    }


def _state(folder: RunFolder) -> str:
    if folder.results_file.exists():
        return "FINISHED"
    lock = FileLock(folder.lock, timeout=0)
    try:
        with lock:
            ended = last_status(folder.path)
    except Timeout:
        return "RUNNING"
    return ended if ended in ("FAILED", "KILLED") else "INTERRUPTED"
