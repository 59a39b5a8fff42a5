"""Runs as processes of their own, and how to follow what was started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from typing import Protocol

from workbench.errors import RequestError, WorkbenchError
from workbench.runs.spec import RunSpec


class LostJobsError(WorkbenchError):
    """The place where jobs run does not answer. They go on; nobody can say how they are."""


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

    def check(self, spec: RunSpec) -> None:
        """Refuse, by a RequestError, what could never start here; writes nothing."""
        ...

    def start(self, spec: RunSpec) -> Handle:
        """Start a job; a WorkbenchError or an OSError is that job's alone.

        Raises:
            LostJobsError: nobody can say any more how the jobs are.
        """
        ...


class LocalLauncher:
    """Processes on this machine, each with its share of the cores and of the GPUs.

    Args:
        parallel: how many jobs may run at once.
        say: hears where they share GPUs.
    """

    def __init__(self, parallel: int, say: Callable[[str], None] = lambda text: None) -> None:
        self.parallel, self.say = parallel, say
        self._held: dict[int, _Process] = {}
        self._shared = False

    def check(self, spec: RunSpec) -> None:
        """Refuse more processes than GPUs, of which each needs one to itself.

        Raises:
            RequestError: fewer GPUs are visible; says how many.
        """
        count = len(_visible_gpus())
        if 0 < count < spec.nproc:
            raise RequestError(
                f"--nproc {spec.nproc} needs {spec.nproc} GPUs, one a process, and {count} can be "
                "seen here."
            )

    def start(self, spec: RunSpec) -> Handle:
        """Start a process in a free place.

        Raises:
            RequestError: as :meth:`check`.
            RuntimeError: ``parallel`` jobs are running already.
        """
        self.check(spec)
        busy = {slot for slot, process in self._held.items() if process.poll() is None}
        free = sorted(set(range(self.parallel)) - busy)
        if not free:
            raise RuntimeError(f"{self.parallel} jobs are running already")
        environment = {**os.environ, **spec.environment(), **self._share(free[0], spec.nproc)}
        self._held[free[0]] = process = _Process(spec, environment)
        return process

    def _share(self, slot: int, nproc: int) -> dict[str, str]:
        """Cores and GPUs of one place; a number of threads that a person set stays."""
        share: dict[str, str] = {}
        if self.parallel > 1 and "OMP_NUM_THREADS" not in os.environ:
            share["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.parallel // nproc))
        gpus = _visible_gpus()
        if gpus:
            groups = len(gpus) // nproc  # whole ones only: no process has a GPU of another's ranks
            if self.parallel > groups and not self._shared:
                self._shared = True
                self.say(
                    f"Up to {self.parallel} processes of {nproc} GPU{'s' * (nproc > 1)} each share "
                    f"{len(gpus)}: they share memory and time too. {groups} at once have GPUs of "
                    "their own."
                )
            first = slot % groups * nproc
            share["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first : first + nproc])
        return share


class _Process:
    """A job's process; it leads a group of its own, so that Ctrl-C reaches it once, from us."""

    outlives = False

    def __init__(self, spec: RunSpec, environment: Mapping[str, str]) -> None:
        spec.write()
        with spec.log.open("ab") as log:
            self._process = subprocess.Popen(
                spec.command(),
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
        return [name for name in chosen.split(",") if name not in ("", "-1")]  # -1 hides all
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
