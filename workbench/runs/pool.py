"""Many jobs, a few at a time: started, followed, stopped together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.errors import InterruptedRunError
from workbench.runs.jobs import Handle, Job, Launcher
from workbench.runs.progress import RunProgress
from workbench.runs.start_variant import starts_at
from workbench.runs.state import RunState
from workbench.training.events import StopFlag


@dataclass
class JobView:
    """A job as people follow it; ``resumed_at`` is the images it had seen before it was started.

    ``blocked_by`` says which failed job it would have started at.
    """

    job: Job
    state: RunState = RunState.PENDING
    code: int | None = None
    started: float | None = None
    resumed_at: int = 0
    blocked_by: str = ""
    progress: RunProgress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = RunProgress(self.job.folder.path, self.job.config.total_nimg)

    @property
    def problem(self) -> str:
        """The last line of the job's log: what a failed one said."""
        if self.blocked_by:
            return f"it starts at variant {self.blocked_by}, which failed"
        try:
            lines = self.job.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("Error: ") if said else "it printed nothing"


class Watcher:
    """Hears what becomes of jobs; the base class is silent."""

    def on_change(self, view: JobView) -> None:
        """A job began or ended."""

    def on_look(self, views: Sequence[JobView]) -> None:
        """Called at every look at the jobs, their progress read anew."""

    def on_end(self) -> None:
        """No job is running any more."""


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher,
    parallel: int,
    watcher: Watcher,
    stop: StopFlag,
    interval: float = 0.5,
) -> list[JobView]:
    """Run all jobs, at most ``parallel`` at once, in order; a failed one does not stop the others.

    A job that starts where another of them ends waits for that one, and fails with it.

    Args:
        stop: when set, running jobs are asked to checkpoint and no other is started.
        interval: seconds between two looks.

    Raises:
        InterruptedRunError: stopped before all were done.
    """
    views = [JobView(job) for job in jobs]
    handles: dict[int, Handle] = {}
    asked = False
    try:
        while True:
            _collect(views, handles, watcher)
            if stop.requested and not asked:
                asked = True
                for handle in handles.values():
                    handle.stop()
            if not stop.requested:
                _fill(views, handles, launcher, parallel, watcher)
            watcher.on_look(views)
            if not handles:
                break
            time.sleep(interval)
    except BaseException:  # the second Ctrl-C: nothing of ours outlives us unasked
        for handle in handles.values():
            handle.stop()
        raise
    finally:
        watcher.on_end()
    if stop.requested and any(view.state is not RunState.FINISHED for view in views):
        done = sum(view.state is RunState.FINISHED for view in views)
        raise InterruptedRunError(
            f"Stopped with {done} of {len(views)} runs done; the same command continues."
        )
    return views


def _fill(
    views: Sequence[JobView],
    handles: dict[int, Handle],
    launcher: Launcher,
    parallel: int,
    watcher: Watcher,
) -> None:
    for place, view in enumerate(views):
        if len(handles) >= parallel:
            return
        if view.state is RunState.PENDING and _is_free(view, views, watcher):
            if not view.job.fresh:
                view.progress.refresh()
            view.resumed_at = view.progress.nimg
            handles[place] = launcher.start(view.job)
            view.state, view.started = RunState.RUNNING, time.monotonic()
            watcher.on_change(view)


def _is_free(view: JobView, views: Sequence[JobView], watcher: Watcher) -> bool:
    """Whether nothing is in a job's way; one whose start has failed fails."""
    for other in views:
        if other.state is RunState.FINISHED or not starts_at(view.job.config, other.job.config):
            continue
        if other.state is RunState.FAILED:
            view.state, view.blocked_by = RunState.FAILED, other.job.config.variant
            watcher.on_change(view)
        return False
    return True


def _collect(views: Sequence[JobView], handles: dict[int, Handle], watcher: Watcher) -> None:
    for place, handle in list(handles.items()):
        view = views[place]
        view.progress.refresh()
        view.code = handle.poll()
        if view.code is None:
            continue
        del handles[place]
        done = view.job.folder.results_file.exists()
        view.state = RunState.FINISHED if view.code == 0 and done else RunState.FAILED
        view.progress.refresh()
        watcher.on_change(view)
