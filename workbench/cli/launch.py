"""How `workbench run` runs: one after the other, in processes side by side, or on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.cli.common import print_error, say
from workbench.errors import InterruptedRunError, RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.runs import Job, Launcher, RunOutcome
    from workbench.training.nodes import Nodes


@dataclass(frozen=True)
class How:
    """The way a person wants several runs to be run.

    Attributes:
        launcher: where their processes start; None for this machine.
        parallel: runs at once; None for one here, and for all with a launcher.
    """

    machines: Nodes
    launcher: Launcher | None
    parallel: int | None

    def at_once(self, runs: int) -> int:
        return self.parallel or (1 if self.launcher is None else runs)

    def apart(self, runs: int) -> bool:
        """Whether each run has a process of its own."""
        return self.launcher is not None or (self.at_once(runs) > 1 and runs > 1)


def check_jobs(jobs: Sequence[Job], how: How) -> None:
    """Refuse what cannot be run, before anything is written, built or downloaded.

    Raises:
        RequestError: options that do not go together, a batch that does not divide by the ranks, an
            address that MLflow does not take, an unknown teacher, or unreadable prompts.
    """
    from workbench.runs import check_request, check_sources
    from workbench.tracking import check_uri

    for job in jobs:
        check_uri(job.tracking_uri)
        check_request(job.config, job.nproc, how.machines)
    if how.apart(len(jobs)) and how.machines.count > 1:
        raise RequestError(
            "--nodes is for runs one after the other on this machine: neither with --parallel nor "
            "with --launcher slurm, which takes --slurm nodes=N."
        )
    check_sources(job.config for job in jobs if job.fresh or job.folder.results() is None)


def launch_jobs(jobs: list[Job], how: How, share: bool) -> tuple[list[RunOutcome], int]:
    """Run what is pending, resume what was cut off, recall what is done.

    Args:
        share: leave runs to others who use the store and have begun them.

    Returns:
        The outcomes, and how many runs were left to others.

    Raises:
        RequestError: the request itself is wrong.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    if not how.apart(len(jobs)):
        return _here(jobs, how.machines, share)
    own = [job for job in jobs if not (share and _is_left(job, jobs))]
    return _in_processes(own, how.launcher, how.at_once(len(jobs))), len(jobs) - len(own)


def find_launcher(name: str, slurm: list[str]) -> Launcher | None:
    """Where jobs run; None for this machine's own processes.

    Raises:
        RequestError: unknown launcher, or settings that have nothing to apply to.
    """
    from workbench.errors import unknown_name

    if name == "slurm":
        from workbench.runs.slurm import SlurmLauncher, slurm_settings

        return SlurmLauncher(slurm_settings(slurm))
    if name != "local":
        raise unknown_name("launcher", name, ("local", "slurm"))
    if slurm:
        raise RequestError("--slurm settings need --launcher slurm.")
    return None


def _here(jobs: list[Job], machines: Nodes, share: bool) -> tuple[list[RunOutcome], int]:
    """One after the other in this process; of several, one that fails does not stop the rest.

    Returns the outcomes and, with ``share``, how many runs were left to others.

    Raises:
        RequestError: the request itself is wrong.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    from workbench.cli.building import find_with_bar
    from workbench.cli.progress import TerminalListener
    from workbench.runs import RunRequest, execute

    outcomes: list[RunOutcome] = []
    taken = 0
    for place, job in enumerate(jobs, 1):
        config = job.config
        if share and _is_left(job, jobs):
            taken += 1
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
            nodes=machines,
        )
        try:
            outcomes.append(execute(request))
        except (RequestError, InterruptedRunError):
            raise
        except WorkbenchError as error:
            if len(jobs) == 1:
                raise
            print_error(f"{config.variant}, seed {config.seed}: {error}")
    return outcomes, taken


def _in_processes(jobs: list[Job], launcher: Launcher | None, parallel: int) -> list[RunOutcome]:
    """Each in a process of its own, several at once, with a live table."""
    from workbench.cli.building import ensure_with_bar
    from workbench.cli.live import JobsWatcher
    from workbench.runs import LocalLauncher, RunOutcome, recall, run_jobs, stop_on_signals
    from workbench.runs.state import RunState

    outcomes = {
        job.folder.path: None if job.fresh else recall(job.folder, job.tracking_uri, say)
        for job in jobs
    }
    waiting = [job for job in jobs if outcomes[job.folder.path] is None]
    for teacher, users in Counter(job.config.teacher for job in waiting).items():
        if users > 1:  # else they would wait for each other's building; a single user builds it
            ensure_with_bar(teacher, waiting[0].workspace.teachers)
    if waiting:
        watcher = JobsWatcher(waiting[0].config.experiment)
        with stop_on_signals() as stop:
            views = run_jobs(waiting, launcher or LocalLauncher(parallel), parallel, watcher, stop)
        for job in (view.job for view in views if view.state is RunState.FINISHED):
            results = job.folder.results()
            if results is not None:
                outcomes[job.folder.path] = RunOutcome(job.folder, results, trained=True)
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _is_left(job: Job, jobs: Sequence[Job]) -> bool:
    """Whether others do a run, and nothing that is done here starts at its weights."""
    from workbench.runs.start_variant import starts_at

    following = [other for other in jobs if starts_at(other.config, job.config)]
    return _is_taken(job) and all(_is_taken(other) for other in following)


def _is_taken(job: Job) -> bool:
    """Whether somebody else who uses the store has done this run or is doing it; says so."""
    from workbench.registry.elsewhere import taken_elsewhere
    from workbench.runs.state import state_of

    try:
        row = taken_elsewhere(job.config, job.workspace, job.tracking_uri)
    except WorkbenchError as error:
        say(f"Whether others have run this could not be asked: {error}")
        return False
    if row is not None:
        host, state = row.tags.get("host", "another machine"), state_of(row)
        say(f"{row.experiment}/{row.name} is {state} on {host}; --fresh runs it here too.")
    return row is not None
