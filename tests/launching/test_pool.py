"""Many jobs side by side: one that is refused, one that others do, and who may stop them all."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
from workbench.launching.jobs import LostJobsError
from workbench.launching.pool import JobView, Watcher, run_jobs
from workbench.launching.slurm import SlurmHandle, _Queue
from workbench.runs.signals import stop_on_signals
from workbench.runs.spec import RunSpec
from workbench.runs.state import RunState
from workbench.training.config import RunConfig
from workbench.training.events import StopFlag
from workbench.workspace import Workspace


class Launcher:
    """Starts nothing; each job has results at its third look.

    Args:
        refused: seed of the job that cannot be started, and why.
        lost_at: look of any job at which the launcher loses sight of all.
    """

    def __init__(
        self,
        refused: tuple[int, Exception] | None = None,
        lost_at: int | None = None,
        deaf: tuple[int, ...] = (),
        on_start: Callable[[], None] = lambda: None,
        outlives: bool = True,
    ) -> None:
        self.outlives = outlives
        self.refused, self.lost_at, self.deaf, self.on_start = refused, lost_at, deaf, on_start
        self.started: list[int] = []
        self.stopped: list[int] = []
        self.looks = 0

    def check(self, job: RunSpec) -> None: ...

    def start(self, job: RunSpec) -> Handle:
        if self.refused is not None and job.config.seed == self.refused[0]:
            raise self.refused[1]
        self.started.append(job.config.seed)
        self.on_start()
        return Handle(self, job)


class Handle:
    def __init__(self, launcher: Launcher, job: RunSpec) -> None:
        self.outlives = launcher.outlives
        self.launcher, self.job, self.looks = launcher, job, 0

    def poll(self) -> int | None:
        self.looks += 1
        self.launcher.looks += 1
        if self.launcher.looks == self.launcher.lost_at:
            raise LostJobsError("squeue has not answered")
        seed = self.job.config.seed
        if seed in self.launcher.stopped:
            return 1
        if self.looks < 3:
            return None
        file = self.job.folder.results_file
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        return 0

    def stop(self) -> None:
        seed = self.job.config.seed
        if seed in self.launcher.deaf:
            raise WorkbenchError(f"Could not stop {seed}.")
        self.launcher.stopped.append(seed)


class Log(Watcher):
    """What became of jobs, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, RunState]] = []

    def on_change(self, view: JobView) -> None:
        self.changes.append((view.spec.config.seed, view.state))


@pytest.fixture
def jobs(tmp_path: Path) -> list[RunSpec]:
    return [RunSpec(RunConfig(seed=seed), Workspace(tmp_path), "") for seed in range(4)]


@pytest.mark.parametrize(
    "refusal",
    [RequestError("sbatch refused x: QOSMaxSubmitJobPerUser"), OSError(28, "No space left")],
)
def test_a_refused_submission_fails_alone(jobs: list[RunSpec], refusal: Exception) -> None:
    launcher, log = Launcher((2, refusal)), Log()
    views = run_jobs(jobs, launcher, 4, log, StopFlag(), interval=0.0)
    failed = {view.spec.config.seed: view.problem for view in views if view.state != "finished"}
    assert failed == {2: str(refusal)}
    assert (launcher.started, launcher.stopped) == ([0, 1, 3], [])
    assert (2, RunState.FAILED) in log.changes


@pytest.mark.parametrize("refused", [None, (3, LostJobsError("squeue has not answered"))])
def test_jobs_that_are_lost_sight_of_go_on(
    jobs: list[RunSpec], refused: tuple[int, Exception] | None
) -> None:
    launcher = Launcher(refused, lost_at=None if refused else 6)
    with pytest.raises(LostJobsError):
        run_jobs(jobs, launcher, 4, Log(), StopFlag(), interval=0.0)
    assert launcher.started
    assert launcher.stopped == []


@pytest.mark.parametrize("outlives", [True, False])
def test_what_runs_here_does_not_outlive_a_command_that_breaks_down(
    jobs: list[RunSpec], outlives: bool
) -> None:
    """A closed pipe behind the live table, for example; a cluster's jobs go on."""

    class Closed(Log):
        def on_look(self, views: Sequence[JobView]) -> None:
            raise SystemExit(1)

    launcher = Launcher(outlives=outlives)
    with pytest.raises(SystemExit):
        run_jobs(jobs, launcher, 2, Closed(), StopFlag(), interval=0.0)
    assert launcher.started == [0, 1]
    assert launcher.stopped == ([] if outlives else [0, 1])


def test_a_person_stops_all_also_beside_one_that_cannot_be_told(
    jobs: list[RunSpec], caplog: pytest.LogCaptureFixture
) -> None:
    asking, log = StopFlag(), Log()

    def ask() -> None:
        asking.requested = len(launcher.started) == 2

    launcher = Launcher(on_start=ask)
    with pytest.raises(InterruptedRunError, match="0 of 4 runs done"):
        run_jobs(jobs, launcher, 4, log, asking, interval=0.0)
    # Not one more is submitted after the signal, though there was room.
    assert (launcher.started, launcher.stopped) == ([0, 1], [0, 1])
    ended = [change for change in log.changes if change[1] is not RunState.RUNNING]
    assert ended == [(0, RunState.INTERRUPTED), (1, RunState.INTERRUPTED)]  # not failed

    def insist() -> None:
        if len(launcher.started) == 3:
            raise KeyboardInterrupt

    launcher = Launcher(on_start=insist, deaf=(0,))
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, launcher, 4, Log(), StopFlag(), interval=0.0)
    assert "Could not stop 0." in caplog.text
    assert launcher.stopped == [1]


def test_what_others_do_is_asked_just_before_each_start(jobs: list[RunSpec]) -> None:
    """Two people with one command: whatever one has begun meanwhile is left to that one."""
    launcher = Launcher()
    asked: list[tuple[int, int]] = []

    def is_left(job: RunSpec) -> bool:
        asked.append((job.config.seed, launcher.looks))
        return job.config.seed in (1, 3)

    views = run_jobs(jobs, launcher, 1, Log(), StopFlag(), interval=0.0, is_left=is_left)
    assert [(view.spec.config.seed, view.state) for view in views] == [
        (0, RunState.FINISHED),
        (2, RunState.FINISHED),
    ]
    assert launcher.started == [0, 2]
    # The second and third are asked about when the first has ended, and each is asked about once.
    assert asked == [(0, 0), (1, 3), (2, 3), (3, 6)]


def test_a_closed_terminal_stops_only_what_runs_here() -> None:
    """Else a lost connection would cancel a cluster's jobs."""
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with stop_on_signals(hangup=False) as stop, pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_queue_is_lost_after_ten_minutes_of_asking_in_vain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after ten minutes in which nobody asked, as while a teacher is built."""
    squeue, now = tmp_path / "squeue", [0.0]
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("workbench.launching.slurm.time.monotonic", lambda: now[0])

    def answers(script: str) -> None:
        squeue.write_text(f"#!/bin/sh\n{script}\n")
        squeue.chmod(0o755)

    asked_late = SlurmHandle(_Queue(10.0), "7", tmp_path / "exit")
    handle = SlurmHandle(_Queue(10.0), "7", tmp_path / "exit")
    answers("echo 7 RUNNING")
    assert handle.poll() is None
    answers("echo away >&2; exit 1")
    for now[0] in (1000.0, 1300.0, 1600.0):
        assert handle.poll() is None
    assert asked_late.poll() is None
    answers("echo 7 RUNNING")
    now[0] = 1650.0
    assert handle.poll() is None
    answers("echo away >&2; exit 1")
    for now[0] in (2000.0, 2600.0):
        assert handle.poll() is None
    now[0] = 2610.0
    with pytest.raises(LostJobsError, match=r"for 10 minutes \(away\)\. The jobs go on"):
        handle.poll()
