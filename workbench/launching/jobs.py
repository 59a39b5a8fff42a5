"""Runs as processes of their own: what to start, and how to follow what was started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workbench.errors import WorkbenchError
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder, run_folder
from workbench.workspace import Workspace, write_json


class LostJobsError(WorkbenchError):
    """The place where jobs run does not answer. They go on; nobody can say how they are."""


@dataclass(frozen=True)
class Job:
    """One run as a command of its own process: what to run, and where.

    ``tracking_uri`` may hold a password: it travels in the environment, never in a command line.
    """

    config: RunConfig
    workspace: Workspace
    tracking_uri: str
    nproc: int = 1
    fresh: bool = False

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.workspace, self.config)

    @property
    def config_file(self) -> Path:
        return job_file(self.workspace, self.folder, ".json")

    @property
    def log(self) -> Path:
        """What the process printed."""
        return job_file(self.workspace, self.folder, ".log")

    def command(self) -> list[str]:
        """The command line; it reads :attr:`config_file`, which :meth:`write` writes."""
        return [
            *(sys.executable, "-m", "workbench", "run", str(self.config_file)),
            *("--workspace", str(self.workspace.root)),
            *(["--nproc", str(self.nproc)] if self.nproc > 1 else []),
            *(["--fresh"] if self.fresh else []),
        ]

    def environment(self) -> dict[str, str]:
        """What the process needs beside this one's environment."""
        return {"MLFLOW_TRACKING_URI": self.tracking_uri}

    def write(self) -> None:
        """Save the configuration where :meth:`command` looks for it."""
        write_json(self.config_file, self.config.model_dump(mode="json"))


def job_file(workspace: Workspace, folder: RunFolder, suffix: str) -> Path:
    """What is kept of a run's jobs: its configuration (``.json``), what it printed (``.log``)."""
    return workspace.root / "jobs" / folder.path.parent.name / f"{folder.path.name}{suffix}"


class Handle(Protocol):
    """A job that was started.

    ``outlives``: it is meant to go on when the command that started it is gone.
    """

    @property
    def outlives(self) -> bool: ...

    def poll(self) -> int | None:
        """The exit code; None while it waits or runs."""
        ...

    def stop(self) -> None:
        """Ask politely: the run writes a checkpoint and ends."""
        ...


class Launcher(Protocol):
    """A place where jobs run."""

    def check(self, job: Job) -> None:
        """Refuse, by a RequestError, what could never start here; writes nothing."""
        ...

    def start(self, job: Job) -> Handle:
        """Start a job; a WorkbenchError or an OSError is that job's alone.

        Raises:
            LostJobsError: nobody can say any more how the jobs are.
        """
        ...


class LocalLauncher:
    """Processes on this machine, each with its share of the cores and of the GPUs.

    Args:
        parallel: how many jobs may run at once.
    """

    def __init__(self, parallel: int) -> None:
        self.parallel = parallel
        self._held: dict[int, _Process] = {}

    def check(self, job: Job) -> None:
        """Nothing is asked of this machine."""

    def start(self, job: Job) -> Handle:
        """Start a process in a free place.

        Raises:
            RuntimeError: ``parallel`` jobs are running already.
        """
        busy = {slot for slot, process in self._held.items() if process.poll() is None}
        free = sorted(set(range(self.parallel)) - busy)
        if not free:
            raise RuntimeError(f"{self.parallel} jobs are running already")
        environment = {**os.environ, **job.environment(), **self._share(free[0], job.nproc)}
        self._held[free[0]] = process = _Process(job, environment)
        return process

    def _share(self, slot: int, nproc: int) -> dict[str, str]:
        """Cores and GPUs of one place; a number of threads that a person set stays."""
        share: dict[str, str] = {}
        if self.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
            share["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.parallel // nproc))
        devices = _visible_gpus()
        if devices:
            first = slot * nproc % len(devices)
            share["CUDA_VISIBLE_DEVICES"] = ",".join((devices * 2)[first : first + nproc])
        return share


class _Process:
    """A job's process; it leads a group of its own, so that Ctrl-C reaches it once, from us."""

    outlives = False

    def __init__(self, job: Job, environment: Mapping[str, str]) -> None:
        job.write()
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)


def _visible_gpus() -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
