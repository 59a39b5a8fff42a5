"""What the tests run in processes of their own: one kills itself with -9, six race."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import PIL.Image

import workbench.tracking.uploader as delivery
from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    default_artifact_root,
    default_uri,
)


def train(
    tracker: MlflowTracker, start: int, after: Callable[[int], None] = lambda _: None
) -> None:
    """Steps start..59; `loss` depends on the step only, `perf` also on the process."""
    for step in range(start, 60):
        tracker.log_metrics({"loss": 1 / (step + 1), "perf": os.getpid() + step}, step)
        tracker.log_image("grid", PIL.Image.new("RGB", (2, 2)), step // 20 * 20)
        if step % 10 == 9:
            tracker.flush(60)
        after(step)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_on_call(name: str, moment: int) -> None:
    """Replaces a function that the delivery calls: its `moment`-th call never happens."""
    original, calls = getattr(delivery, name), 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment:
            die()
        return original(*arguments)

    setattr(delivery, name, counted)


def main(workspace: Path, counted: str, moment: int) -> None:
    if counted != "step":
        die_on_call(counted, moment)
    tracker = MlflowTracker(
        workspace / "run",
        default_uri(workspace),
        default_artifact_root(workspace),
        RunIdentity("digits", "sid-0", {"a": "1"}),
        UploaderSettings(0.01, 60.0, 0.01),
    )
    train(tracker, 0, lambda step: die() if (counted, moment) == ("step", step) else None)
    tracker.finish("FINISHED")


def race(workspace: Path, name: str, gate: Barrier) -> None:
    """Tracks a run of 200 points together with others that pass the gate at the same moment."""
    gate.wait(timeout=60)
    tracker = MlflowTracker(
        workspace / name,
        default_uri(workspace),
        default_artifact_root(workspace),
        RunIdentity("shared", name, {"name": name}),
        UploaderSettings(0.05, 100.0, 0.0),
    )
    for step in range(200):
        tracker.log_metrics({"loss": float(step)}, step)
    sys.exit(tracker.finish("FINISHED"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
