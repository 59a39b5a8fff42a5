"""How `workbench run` runs: one after the other, in processes side by side, or on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cli.common import print_error, say
from workbench.errors import (
    AlreadyRunningError,
    InterruptedRunError,
    RequestError,
    WorkbenchError,
)

if TYPE_CHECKING:
    from workbench.launching.jobs import Job, Launcher
    from workbench.runs.execution import RunOutcome
    from workbench.tracking import RunRow


@dataclass(frozen=True)
class LaunchOptions:
    """The way a person wants several runs to be run.

    Attributes:
        launcher: where their processes start; None for this machine.
        parallel: runs at once; None for one here, and for all with a launcher.
    """

    launcher: Launcher | None
    parallel: int | None

    def at_once(self, runs: int) -> int:
        return self.parallel or (1 if self.launcher is None else runs)

    def apart(self, runs: int) -> bool:
        """Whether each run has a process of its own."""
        return self.launcher is not None or (self.at_once(runs) > 1 and runs > 1)


def check_jobs(jobs: Sequence[Job], how: LaunchOptions, *, remote: bool = True) -> list[str]:
    """Refuse what cannot be run, before anything is written, built or downloaded.

    Args:
        remote: also ask for what is downloaded; else what is missing here is returned, in words.

    Raises:
        RequestError: runs side by side in processes of torchrun or srun, a batch that does not
            divide by the ranks, an address that MLflow does not take, a launcher that this machine
            does not have, an unknown teacher, or unreadable prompts.
    """
    from workbench.runs.execution import check_request, check_sources
    from workbench.tracking import check_uri
    from workbench.training.world import current_world

    pending = [job for job in jobs if job.fresh or job.folder.results() is None]
    for job in jobs:
        check_uri(job.tracking_uri)
    for job in pending:
        check_request(job.config, job.nproc)
    if how.apart(len(jobs)) and current_world() is not None:
        raise RequestError(
            "The processes of torchrun or srun do one run after the other: without them, or "
            "without --parallel and --launcher."
        )
    if how.launcher is not None:
        for job in pending:
            how.launcher.check(job)
    configs = [job.config for job in pending]
    return check_sources(configs, jobs[0].workspace, remote=remote) if jobs else []


def launch_jobs(jobs: list[Job], how: LaunchOptions, share: bool) -> tuple[list[RunOutcome], int]:
    """Run what is pending, resume what was cut off, recall what is done.

    What was left to others and is not finished is told at the end: the machine may have died.

    Args:
        share: leave runs to others who use the store and have begun them.

    Returns:
        The outcomes, and how many runs were left to others.

    Raises:
        RequestError: the request itself is wrong.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    left: list[tuple[Job, RunRow]] = []

    def is_left(job: Job) -> bool:
        return share and _is_left(job, jobs, left)

    if how.apart(len(jobs)):
        own = [job for job in jobs if not is_left(job)]
        outcomes = _in_processes(own, how.launcher, how.at_once(len(jobs)), is_left)
    else:
        outcomes = _here(jobs, is_left)
    _tell_unfinished(left)
    return outcomes, len(left)


def find_launcher(name: str, slurm: list[str]) -> Launcher | None:
    """Where jobs run; None for this machine's own processes.

    Raises:
        RequestError: unknown launcher, or settings that have nothing to apply to.
    """
    from workbench.errors import unknown_name

    if name == "slurm":
        from workbench.launching.slurm import SlurmLauncher, slurm_settings

        return SlurmLauncher(slurm_settings(slurm))
    if name != "local":
        raise unknown_name("launcher", name, ("local", "slurm"))
    if slurm:
        raise RequestError("--slurm settings need --launcher slurm.")
    return None


def _here(jobs: list[Job], is_left: Callable[[Job], bool]) -> list[RunOutcome]:
    """One after the other in this process.

    Of several, one that fails or is running already does not stop the rest.

    Args:
        is_left: whether a run is left to others, asked when its turn has come.

    Raises:
        RequestError: the request itself is wrong, or the only one is running already.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    from workbench.cli.building import find_with_bar
    from workbench.cli.progress import TerminalListener
    from workbench.runs.execution import RunRequest, execute

    outcomes: list[RunOutcome] = []
    for place, job in enumerate(jobs, 1):
        config = job.config
        if is_left(job):
            continue
        if len(jobs) > 1:
            say(f"[{place}/{len(jobs)}] {config.variant}, seed {config.seed}, on {config.teacher}")
        request = RunRequest(
            config,
            job.workspace,
            job.tracking_uri,
            job.nproc,
            job.fresh,
            TerminalListener,
            find_with_bar,
            say,
        )
        try:
            outcomes.append(execute(request))
        except WorkbenchError as error:
            wrong = isinstance(error, RequestError) and not isinstance(error, AlreadyRunningError)
            if len(jobs) == 1 or wrong or isinstance(error, InterruptedRunError):
                raise
            print_error(f"{config.variant}, seed {config.seed}: {error}")
    return outcomes


def _in_processes(
    jobs: list[Job], launcher: Launcher | None, parallel: int, is_left: Callable[[Job], bool]
) -> list[RunOutcome]:
    """Each in a process of its own, several at once, with a live table.

    Args:
        is_left: as :func:`run_jobs`: others may have begun a run since the first one was started.
    """
    from workbench.cli.building import ensure_with_bar
    from workbench.cli.live import JobsWatcher
    from workbench.launching.jobs import LocalLauncher
    from workbench.launching.pool import run_jobs
    from workbench.runs.execution import RunOutcome, load_finished
    from workbench.runs.signals import stop_on_signals
    from workbench.runs.state import RunState

    outcomes = {
        job.folder.path: None if job.fresh else load_finished(job.folder, job.tracking_uri, say)
        for job in jobs
    }
    waiting = [job for job in jobs if outcomes[job.folder.path] is None]
    for teacher, users in Counter(job.config.teacher for job in waiting).items():
        if users > 1:  # else they would wait for each other's building; a single user builds it
            ensure_with_bar(teacher, waiting[0].workspace.teachers)
    if waiting:
        watcher = JobsWatcher(waiting[0].config.experiment)
        place = launcher or LocalLauncher(parallel)
        with stop_on_signals(hangup=launcher is None) as stop:
            views = run_jobs(waiting, place, parallel, watcher, stop, is_left=is_left)
        for job in (view.job for view in views if view.state is RunState.FINISHED):
            results = job.folder.results()
            if results is not None:
                outcomes[job.folder.path] = RunOutcome(job.folder, results, trained=True)
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _is_left(job: Job, jobs: Sequence[Job], left: list[tuple[Job, RunRow]]) -> bool:
    """Whether others do a run, which then joins ``left``; no run that is done here starts at it."""
    from workbench.runs.start_variant import starts_at

    following = [other for other in jobs if starts_at(other.config, job.config)]
    row = _taken(job)
    if row is None or any(_taken(other) is None for other in following):
        return False
    left.append((job, row))
    return True


def _taken(job: Job) -> RunRow | None:
    """What somebody else who uses the store has done or is doing of this run; says so."""
    from workbench.registry.elsewhere import host_of, taken_elsewhere
    from workbench.runs.state import state_of

    try:
        row = taken_elsewhere(job.config, job.workspace, job.tracking_uri)
    except WorkbenchError as error:
        say(f"Whether others have run this could not be asked: {error}")
        return None
    if row is not None:
        state = state_of(row)
        say(f"{row.experiment}/{row.name} is {state} on {host_of(row)}; --fresh runs it here too.")
    return row


def _tell_unfinished(left: Sequence[tuple[Job, RunRow]]) -> None:
    """How to take over what others were doing: only after a while it shows that they died."""
    from workbench.registry.elsewhere import host_of
    from workbench.runs.state import RunState, state_of

    for job, row in left:
        if state_of(row) is not RunState.FINISHED:
            config = job.config
            say(
                f"Not finished: {row.experiment}/{row.name}, left to {host_of(row)}. If nothing "
                f"works on it there any more, take it over: this command with --variant "
                f"{config.variant} --seed {config.seed} --fresh, or any time after half an hour "
                f"without a sign of life from there."
            )
