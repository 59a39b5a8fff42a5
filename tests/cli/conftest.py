"""The command line as a person has it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from workbench.workspace import open_workspace

QUICK = (
    "training.kimg=1.6",
    "training.batch_size=32",
    "training.ema_halflife_kimg=0.3",
    "schedule.log_kimg=0.16",
    "schedule.evaluate_kimg=0.8",
    "schedule.checkpoint_kimg=0.16",
    "evaluation.samples=200",
    "evaluation.teacher_steps=[4]",
    "evaluation.student_steps=[4,1]",
)


ONLY_RUNS = "tags.kind = 'run'"
"""Filter: an experiment's plan is in its MLflow experiment too."""


@dataclass
class Workbench:
    """``workbench`` in one workspace."""

    workspace: Path
    teacher: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "workbench", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "WORKBENCH_WORKSPACE": str(self.workspace),
                "COLUMNS": "200",
                **self.environment,
            },
        )

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, error = process.communicate(timeout=400)
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{error}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def quick(self, *more: str, settings: tuple[str, ...] = ()) -> list[str]:
        """The arguments of a run of seconds on the tests' teacher."""
        assignments = [part for text in (*QUICK, *settings) for part in ("--set", text)]
        which = ("--teacher", str(self.teacher), "--recipe", "digits")
        return ["run", "quickstart", *which, *assignments, *more]

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def signal_when(
        self, arguments: list[str], ready: Callable[[], bool], number: signal.Signals
    ) -> subprocess.CompletedProcess[str]:
        """Start, wait until ready, send the signal; the process's end."""
        process = self.start(*arguments)
        deadline = time.monotonic() + 200
        while not ready():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, error = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def only_run(self) -> Path:
        (config,) = self.workspace.glob("runs/*/*/config.json")
        return config.parent

    def nimg_reached(self, nimg: int) -> Callable[[], bool]:
        """Whether a checkpoint of at least so many images is there."""

        def reached() -> bool:
            found = self.workspace.glob("runs/*/*/checkpoints/nimg-*")
            return any(int(path.name.removeprefix("nimg-")) >= nimg for path in found)

        return reached


class InsideWorkbench(Workbench):
    """Calls the entry point in this process."""

    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        from workbench.cli.main import run_cli

        self.monkeypatch.setenv("WORKBENCH_WORKSPACE", str(self.workspace))
        self.monkeypatch.setenv("COLUMNS", "200")
        self.monkeypatch.setattr(sys, "argv", ["workbench", *arguments])
        self.capture.readouterr()
        try:
            run_cli()
            ended = 0
        except SystemExit as end:
            ended = end.code if isinstance(end.code, int) else 0
        out, error = self.capture.readouterr()
        assert ended == code, f"exit {ended}\n{out}\n{error}"
        return subprocess.CompletedProcess(arguments, ended, out, error)


@pytest.fixture
def workbench(
    tmp_path: Path,
    digits_teacher_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> InsideWorkbench:
    """An empty workspace; commands run in this process, ``start`` makes one of their own."""
    same = InsideWorkbench(tmp_path / "workspace", digits_teacher_dir)
    same.monkeypatch, same.capture = monkeypatch, capfd
    return same


@pytest.fixture
def prepared(
    workbench: InsideWorkbench, evaluation_cache: Path, fresh_store: Path
) -> InsideWorkbench:
    """A workspace that has evaluated and tracked before: classifier and store are there."""
    open_workspace(workbench.workspace)
    shutil.copytree(evaluation_cache, workbench.workspace / "cache")
    shutil.copy(fresh_store, workbench.workspace / "mlflow.db")
    return workbench


@pytest.fixture(scope="session")
def finished(shared_folder: Path, digits_teacher_dir: Path) -> Workbench:
    """A workspace with one finished run, from nothing, in a process of its own; read it only."""
    workbench = Workbench(shared_folder / "finished" / "workspace", digits_teacher_dir)
    with FileLock(shared_folder / "finished.lock"):
        workbench(*workbench.quick())  # the second worker to come only recalls it
    return workbench


@pytest.fixture
def inside_finished(finished: Workbench, workbench: InsideWorkbench) -> InsideWorkbench:
    """Commands in this process on the finished run's workspace."""
    workbench.workspace = finished.workspace
    return workbench
