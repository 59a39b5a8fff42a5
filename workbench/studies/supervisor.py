"""Workers as processes of their own: started, followed, started again when killed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import InterruptedRunError
from workbench.launching.jobs import Handle, Job, Launcher
from workbench.studies.storage import ENVIRONMENT_VARIABLE
from workbench.training.events import StopFlag
from workbench.workspace import write_json

_RESTARTS = 3
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class WorkerJob(Job):
    """One worker of a study on this machine; ``config`` is the study's base.

    ``storage`` may hold a password: like ``tracking_uri`` it travels in the environment.
    """

    study: str
    storage: str
    index: int

    @property
    def log(self) -> Path:
        """What the worker printed."""
        return self._log_folder / f"worker{self.index}.log"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "workbench", "studies", "worker", self.study),
            *("--workspace", str(self.workspace.root), "--nproc", str(self.nproc)),
        ]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), ENVIRONMENT_VARIABLE: self.storage}

    def write(self) -> None:
        """Make the place of the log; a worker reads its settings from the study."""
        write_json(self._log_folder / "study.json", {"study": self.study})

    @property
    def last_words(self) -> str:
        """The last line of the log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("Error: ") if said else "it printed nothing"

    @property
    def _log_folder(self) -> Path:
        return self.workspace.root / "jobs" / f"study-{self.study}"


def supervise(
    jobs: Sequence[WorkerJob],
    launcher: Launcher,
    stop: StopFlag,
    look: Callable[[], None],
    say: Callable[[str], None],
) -> dict[int, int]:
    """Run the workers to their ends; each one's index and exit code.

    A worker that a signal killed is started again, three times at most: its trial waits for it. One
    that ends with an error ends alone.

    Args:
        look: called about twice a second.

    Raises:
        InterruptedRunError: asked to stop; the workers have been, and have ended.
    """
    running: dict[int, Handle] = {}
    codes: dict[int, int] = {}
    restarts: Counter[int] = Counter()
    asked = False
    try:
        for job in jobs:
            running[job.index] = launcher.start(job)
        while len(codes) < len(jobs):
            for job in jobs:
                code = None if job.index in codes else running[job.index].poll()
                if code is None:
                    continue
                if code < 0 and restarts[job.index] < _RESTARTS and not stop.requested:
                    restarts[job.index] += 1
                    say(f"Worker {job.index} was killed by signal {-code} and is started again.")
                    running[job.index] = launcher.start(job)
                    continue
                codes[job.index] = code
                if code and not stop.requested:
                    say(_last_words(job, code))
            if stop.requested and not asked:
                asked = True
                _stop(running.values())
            look()
            time.sleep(_LOOK_SECONDS)
    except BaseException:  # the second Ctrl-C: nothing of ours outlives us unasked
        _stop(running.values())
        raise
    if stop.requested:
        raise InterruptedRunError("Stopped; running trials wait with their checkpoints.")
    return codes


def _last_words(job: WorkerJob, code: int) -> str:
    if code > 0:
        return f"Worker {job.index} stopped: {job.last_words}"
    return (
        f"Worker {job.index} was killed by signal {-code} for the {_RESTARTS + 1}th time and is "
        f"given up; its trial waits. Its log is {job.log}."
    )


def _stop(workers: Iterable[Handle]) -> None:
    for worker in workers:
        worker.stop()
