"""The share of a tiny run's time that tracking costs; at most 1 % is the target.

    python benchmarks/tracking.py --workspace DIR     # DIR keeps the teacher for the next time

The same run on the embedded teacher, tracked and silent in turn, each in a process of its own, as
runs are: so the import of MLflow counts too. The workspace's store and teacher are there before.
Of a tracked run three things are measured directly, each against the same run's own time:

- waited: wall seconds that the training thread spends inside tracker and tracking listener, the
  wait for delivery at the end included.
- behind: processor seconds of the delivery and system-metrics threads, beside the training.
- opening: the part of ``behind`` in which MLflow is imported and the run created, once a run.

The difference between tracked and silent runs holds everything and is noisy. Runs are timed from
request to results; training alone is the trainer's clock, without evaluations and checkpoints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

TRACKED, SILENT = "tracked", "silent"
TARGET = 0.01
_THREADS = ("mlflow-delivery", "system-metrics")


class Meter:
    """Seconds by name: ``wall`` inside calls from the main thread, ``cpu`` of other threads."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self._inside = False

    def watch(self, owner: Any, name: str) -> None:
        """Time the calls of a function; one inside another counts once, for the outer one."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside or threading.current_thread() is not threading.main_thread():
                return original(*arguments, **named)
            self._inside, began = True, time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                self._inside = False
                self.wall[name] += time.perf_counter() - began

        setattr(owner, name, timed)

    def watch_processor(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        """Add up the calling thread's own processor time in the calls of a function."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return original(*arguments, **named)
            finally:
                self.cpu[label(*arguments)] += time.thread_time() - began

        setattr(owner, name, timed)


def watch(meter: Meter) -> None:
    """Let everything that tracks a run be timed."""
    from workbench.runs import session
    from workbench.runs.tracking import TrackerListener
    from workbench.tracking import MlflowTracker, Tracker
    from workbench.tracking.uploader import Uploader

    for name in [name for name in vars(Tracker) if not name.startswith("_")]:
        meter.watch(MlflowTracker, name)
    for name in ("__init__", "on_metrics", "on_warning"):
        meter.watch(TrackerListener, name)
    meter.watch(session, "open_tracker")
    meter.watch_processor(threading.Thread, "run", lambda thread: str(thread.name))
    meter.watch_processor(Uploader, "_open", lambda *arguments: "opening")


def silence() -> None:
    """The no-op tracker; what the run's last figure draws from its journal is kept in memory."""
    from workbench import tracking
    from workbench.runs import session
    from workbench.training.events import Listener

    heard: list[tracking.Point] = []

    class Memory(Listener):
        def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
            heard.extend(tracking.Point(key, nimg, value, 0) for key, value in values.items())

    for owner, name, instead in (
        (session, "open_tracker", lambda *arguments: tracking.Tracker()),
        (session, "TrackerListener", lambda *arguments: Memory()),
        (tracking, "read_points", lambda *arguments: heard),
    ):
        setattr(owner, name, instead)


def one_run(arm: str, folder: Path, kimg: float) -> dict[str, Any]:
    """The run, in this process: its seconds, and those of tracking if it is tracked."""
    from workbench.runs.execution import execute
    from workbench.runs.spec import RunSpec
    from workbench.tracking import default_uri
    from workbench.training.recipes import run_config
    from workbench.workspace import open_workspace

    meter, place = Meter(), open_workspace(folder)
    watch(meter) if arm == TRACKED else silence()
    settings = [f"training.kimg={kimg}", "experiment=tracking_cost"]
    config = run_config(*settings)
    began, used = time.perf_counter(), time.process_time()
    done = execute(RunSpec(config, place, default_uri(place.root), fresh=True))
    return {
        "wall": time.perf_counter() - began,
        "processor": time.process_time() - used,
        "training": done.results["training_seconds"],
        "waited": sum(meter.wall.values()),
        "behind": sum(meter.cpu[name] for name in _THREADS),
        "opening": meter.cpu["opening"],
    }


def in_a_process(arm: str, folder: Path, kimg: float) -> dict[str, Any]:
    """:func:`one_run` in an interpreter of its own."""
    place = ["--workspace", str(folder), "--kimg", str(kimg)]
    command = [sys.executable, __file__, "--one", arm, *place]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{arm:8} wall {values['wall']:.1f} s, waited {values['waited']:.3f} s", file=sys.stderr)
    return values


def prepare(folder: Path) -> None:
    """Teacher, classifier, teacher's scores and store: what a workspace has after its first run."""
    from workbench.tracking import default_artifact_root, default_uri, ensure_store

    in_a_process(SILENT, folder, 0.128)
    ensure_store(default_uri(folder), default_artifact_root(folder))


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The tables."""
    tracked = runs[TRACKED]
    print(f"\n{'of a tracked run':18} {'seconds':>8} {'of the run':>11} {'of training alone':>18}")
    for name in ("waited", "behind", "opening"):
        of_run = median(run[name] / run["wall"] for run in tracked)
        of_training = median(run[name] / run["training"] for run in tracked)
        seconds = median(run[name] for run in tracked)
        print(f"{name:18} {seconds:8.3f} {of_run:11.2%} {of_training:18.2%}")
    print(f"\n{'whole runs':18} {'tracked':>24} {'silent':>24} {'ratio':>7}")
    for name in ("wall", "processor", "training"):
        columns = {arm: [run[name] for run in found] for arm, found in runs.items()}
        cells = [f"{median(c):8.2f} ({min(c):.1f} to {max(c):.1f})" for c in columns.values()]
        ratio = median(columns[TRACKED]) / median(columns[SILENT])
        print(f"{name + ', s':18} {cells[0]:>24} {cells[1]:>24} {ratio:7.3f}")
    costs = [(run["waited"] + run["behind"], run["opening"], run["wall"]) for run in tracked]
    once = median(cost / wall for cost, _, wall in costs)
    after = median((cost - opening) / wall for cost, opening, wall in costs)
    verdict = "  MISSED" * (once > TARGET)
    print(f"\nwaited and behind, of the run: {once:.2%} of at most {TARGET:.0%}{verdict}")
    print(f"without opening, so what a longer run tends to: {after:.2%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--workspace", type=Path, help="(default: a temporary one)")
    parser.add_argument("--kimg", type=float, default=12.8, help="of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind")
    parser.add_argument("--one", choices=(TRACKED, SILENT), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one, options.workspace, options.kimg)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.workspace or Path(scratch) / "workspace"
        prepare(folder)
        runs: dict[str, list[dict[str, Any]]] = {TRACKED: [], SILENT: []}
        for _ in range(options.repeats):
            for arm, found in runs.items():
                found.append(in_a_process(arm, folder, options.kimg))
    print(f"{options.kimg:g} kimg, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    show(runs)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
