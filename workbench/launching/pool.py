"""Many jobs, a few at a time: started, followed, stopped together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from workbench.errors import InterruptedRunError, WorkbenchError
from workbench.launching.jobs import Handle, Launcher, LostJobsError
from workbench.launching.progress import RunProgress
from workbench.runs.spec import RunSpec
from workbench.runs.start_variant import starts_at
from workbench.runs.state import RunState
from workbench.training.events import StopFlag

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class JobView:
    """A job as people follow it; ``resumed_at`` is the images it had seen before it was started.

    ``obstacle`` says why it could not be started; ``handle`` is of a job that was and goes on.
    """

    spec: RunSpec
    state: RunState = RunState.PENDING
    code: int | None = None
    started: float | None = None
    resumed_at: int = 0
    obstacle: str = ""
    handle: Handle | None = None
    progress: RunProgress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = RunProgress(self.spec.folder.path, self.spec.config.total_nimg)

    @property
    def problem(self) -> str:
        """Why it was not started, or the last line of its log: what a failed one said."""
        return self.obstacle or self.spec.last_words


class Watcher:
    """Hears what becomes of jobs; the base class is silent."""

    def on_change(self, view: JobView) -> None:
        """A job began or ended."""

    def on_look(self, views: Sequence[JobView]) -> None:
        """Called at every look at the jobs, their progress read anew."""

    def on_end(self) -> None:
        """No job is running any more."""


def run_jobs(
    specs: Sequence[RunSpec],
    launcher: Launcher,
    parallel: int,
    watcher: Watcher,
    stop: StopFlag,
    interval: float = 0.5,
    is_left: Callable[[RunSpec], bool] = lambda spec: False,
) -> list[JobView]:
    """Run all jobs, at most ``parallel`` at once, in order; a failed one does not stop the others.

    A job that starts where another of them ends waits for that one, and fails with it. One that
    cannot be started fails alone.

    Args:
        stop: when set, running jobs are asked to checkpoint and no other is started.
        interval: seconds between two looks.
        is_left: asked just before a job is started: whether others do it. It then is none of ours.

    Returns:
        A view of each job that was not left to others.

    Raises:
        InterruptedRunError: stopped before all were done.
        LostJobsError: nobody can say any more how the jobs are; they go on.
        WorkbenchError: some could not be asked to stop.
    """
    views = [JobView(spec) for spec in specs]
    asked = False
    try:
        while True:
            _collect(views, watcher, asked)
            if stop.requested and not asked:
                asked = True
                _stop_all(views)
            _fill(views, launcher, parallel, watcher, stop, is_left)
            watcher.on_look(views)
            if not _running(views):
                break
            time.sleep(interval)
    except BaseException as error:  # nothing of ours outlives us unasked
        wanted = isinstance(error, KeyboardInterrupt)  # the second Ctrl-C
        _stop_before_leaving([v for v in views if v.handle and (wanted or not v.handle.outlives)])
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
    views: list[JobView],
    launcher: Launcher,
    parallel: int,
    watcher: Watcher,
    stop: StopFlag,
    is_left: Callable[[RunSpec], bool],
) -> None:
    """Start what there is room for; a job that is left to others leaves ``views``."""
    for view in list(views):
        # Asked anew for each: submitting, or asking a store, may take seconds.
        if stop.requested or len(_running(views)) >= parallel:
            return
        if view.state is not RunState.PENDING or not _is_free(view, views, watcher):
            continue
        if is_left(view.spec):
            views.remove(view)
        else:
            _start(view, launcher)
            watcher.on_change(view)


def _start(view: JobView, launcher: Launcher) -> None:
    """Start a job; what the launcher refuses is that job's failure."""
    if not view.spec.fresh:
        view.progress.refresh()
    view.resumed_at = view.progress.nimg
    try:
        view.handle = launcher.start(view.spec)
    except LostJobsError:
        raise
    except (WorkbenchError, OSError) as error:
        view.state, view.obstacle = RunState.FAILED, str(error)
        return
    view.state, view.started = RunState.RUNNING, time.monotonic()


def _is_free(view: JobView, views: Sequence[JobView], watcher: Watcher) -> bool:
    """Whether nothing is in a job's way; one whose start has failed fails."""
    for other in views:
        if other.state is RunState.FINISHED or not starts_at(view.spec.config, other.spec.config):
            continue
        if other.state is RunState.FAILED:
            view.state = RunState.FAILED
            view.obstacle = f"it starts at variant {other.spec.config.variant}, which failed"
            watcher.on_change(view)
        return False
    return True


def _collect(views: Iterable[JobView], watcher: Watcher, asked: bool) -> None:
    """Take note of what has ended; ``asked``: all were asked to stop, which is no failure."""
    for view in views:
        if view.handle is None:
            continue
        view.progress.refresh()
        view.code = view.handle.poll()
        if view.code is None:
            continue
        view.handle = None
        done = view.spec.folder.results_file.exists()
        failed = RunState.INTERRUPTED if asked else RunState.FAILED
        view.state = RunState.FINISHED if view.code == 0 and done else failed
        view.progress.refresh()
        watcher.on_change(view)


def _running(views: Iterable[JobView]) -> list[Handle]:
    return [view.handle for view in views if view.handle is not None]


def _stop_before_leaving(views: Iterable[JobView]) -> None:
    """Ask jobs to stop because of an error, which is what is told in the end."""
    try:
        _stop_all(views)
    except WorkbenchError as error:
        LOG.warning("%s", error)


def _stop_all(views: Iterable[JobView]) -> None:
    """Ask every job to stop, also when one of them cannot be asked.

    Raises:
        WorkbenchError: some could not be asked.
    """
    problems: list[str] = []
    for handle in _running(views):
        try:
            handle.stop()
        except WorkbenchError as error:
            problems.append(str(error))
    if problems:
        raise WorkbenchError(" ".join(problems))
