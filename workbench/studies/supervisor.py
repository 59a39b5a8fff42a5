"""Workers as processes or cluster jobs: started, followed, started again when killed."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from workbench.errors import InterruptedRunError
from workbench.launching.jobs import Handle, Launcher
from workbench.runs.cached import STUDY_FILE
from workbench.runs.spec import RunSpec
from workbench.studies.overview import study_view
from workbench.studies.storage import ENVIRONMENT_VARIABLE
from workbench.studies.study import exact_name
from workbench.studies.trials import StudyTrials
from workbench.training.events import StopFlag
from workbench.workspace import Workspace, write_json

_RESTARTS = 3
_LOOK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class WorkerJob(RunSpec):
    """One worker of a study; ``config`` is the study's base.

    ``storage`` may hold a password: like ``tracking_uri`` it travels in the environment.
    """

    study: str
    storage: str
    index: int

    @property
    def name(self) -> str:
        return f"{self.study}-worker{self.index}"

    @property
    def log(self) -> Path:
        """What the worker printed."""
        return self._log_folder / f"worker{self.index}.log"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "workbench", "studies", "worker", self.study),
            *("--workspace", str(self.workspace.root)),
            *(["--nproc", str(self.nproc)] if self.nproc > 1 else []),
        ]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), ENVIRONMENT_VARIABLE: self.storage}

    def without_secrets(self) -> Self:
        return replace(super().without_secrets(), storage="")

    def write(self) -> None:
        """Make the place of the log; a worker reads its settings from the study."""
        write_json(self._log_folder / STUDY_FILE, {"study": self.study})

    @property
    def _log_folder(self) -> Path:
        return self.workspace.root / "jobs" / f"study-{self.study}"


def worker_jobs(
    trials: StudyTrials, workspace: Workspace, tracking_uri: str, nproc: int, workers: int
) -> list[WorkerJob]:
    """Jobs of a study, no more than trials that are left: each takes seconds to begin."""
    now = study_view(trials)
    return [
        WorkerJob(
            trials.spec.base,
            workspace,
            tracking_uri,
            nproc,
            study=exact_name(trials.spec.name),
            storage=trials.storage.url,
            index=index,
        )
        for index in range(1, min(workers, now.total - now.ended) + 1)
    ]


def supervise(
    jobs: Sequence[WorkerJob],
    launcher: Launcher,
    stop: StopFlag,
    look: Callable[[], None],
    say: Callable[[str], None],
) -> dict[int, int]:
    """Run the workers to their ends; each one's index and exit code.

    A worker that a signal killed is started again, three times at most: its trial waits for it. One
    that ends with an error ends alone. Jobs of a cluster outlive an error of this process.

    Args:
        look: called about twice a second.

    Raises:
        InterruptedRunError: asked to stop; the workers have been, and have ended.
        LostJobsError: nobody can say any more how the workers are; they go on.
    """
    running: dict[int, Handle] = {}
    codes: dict[int, int] = {}
    restarts: Counter[int] = Counter()
    asked = False
    try:
        for job in jobs:
            running[job.index] = launcher.start(job)
        while len(codes) < len(jobs):
            for job in (job for job in jobs if job.index not in codes):
                code = running[job.index].poll()
                if code is None:
                    continue
                killed = _signal(code)
                if killed and restarts[job.index] < _RESTARTS and not stop.requested:
                    restarts[job.index] += 1
                    say(f"Worker {job.index} was killed by signal {killed} and is started again.")
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
    except BaseException as error:  # nothing of ours outlives us unasked
        second = isinstance(error, KeyboardInterrupt)
        _stop(worker for worker in running.values() if second or not worker.outlives)
        raise
    if stop.requested:
        raise InterruptedRunError("Stopped; running trials wait with their checkpoints.")
    return codes


def _signal(code: int) -> int:
    """The signal that ended a worker, as this machine or a shell of another one tells it, or 0."""
    return -code if code < 0 else max(0, code - 128)


def _last_words(job: WorkerJob, code: int) -> str:
    if not _signal(code):
        return f"Worker {job.index} stopped: {job.last_words}"
    return (
        f"Worker {job.index} was killed by signal {_signal(code)} for the {_RESTARTS + 1}th time "
        f"and is given up; its trial waits. Its log is {job.log}."
    )


def _stop(workers: Iterable[Handle]) -> None:
    for worker in workers:
        worker.stop()
