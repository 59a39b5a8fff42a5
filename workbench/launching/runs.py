"""Several runs of one request: in this process, in processes side by side, or on a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.errors import (
    AlreadyRunningError,
    InterruptedRunError,
    RequestError,
    WorkbenchError,
    unknown_name,
)
from workbench.launching.jobs import Launcher, LocalLauncher
from workbench.launching.pool import Watcher, run_jobs
from workbench.runs.execution import (
    RunOutcome,
    check_request,
    check_sources,
    execute,
    load_finished,
)
from workbench.runs.signals import stop_on_signals
from workbench.runs.spec import RunSpec
from workbench.runs.start_variant import starts_at
from workbench.runs.state import RunState, state_of
from workbench.students.text import Say, silent_say
from workbench.teachers import KNOWN_TEACHERS, find_teacher
from workbench.tracking import RunRow, check_uri, default_uri, list_runs
from workbench.training.events import Listener
from workbench.training.world import current_world


@dataclass
class Launched:
    """What has become of the runs that were asked for.

    Attributes:
        finished: now, or before.
        failed: with the reason of each.
        left: to others who use the store and have begun them, as it knows them.
    """

    finished: list[RunOutcome] = field(default_factory=list)
    failed: list[tuple[RunSpec, str]] = field(default_factory=list)
    left: list[tuple[RunSpec, RunRow]] = field(default_factory=list)


def find_launcher(name: str, slurm: Sequence[str] = ()) -> Launcher | None:
    """Where runs are done; None for this machine's own processes.

    Args:
        slurm: settings of its jobs, KEY=VALUE each.

    Raises:
        RequestError: unknown launcher, or settings that have nothing to apply to.
    """
    if name == "slurm":
        from workbench.launching.slurm import SlurmLauncher, slurm_settings

        return SlurmLauncher(slurm_settings(slurm))
    if name != "local":
        raise unknown_name("launcher", name, ("local", "slurm"))
    if slurm:
        raise RequestError("--slurm settings need --launcher slurm.")
    return None


def check_runs(
    specs: Sequence[RunSpec],
    launcher: Launcher | None = None,
    parallel: int | None = None,
    *,
    remote: bool = True,
) -> list[str]:
    """Refuse what cannot be run, before anything is written, built or downloaded.

    Args:
        launcher: as for :func:`launch_runs`, like ``parallel``.
        remote: also ask for what is downloaded; else what is missing here is returned, in words.

    Raises:
        RequestError: runs side by side in processes of torchrun or srun, a batch that does not
            divide by the ranks, an address that MLflow does not take, a launcher that this machine
            does not have, fewer GPUs than ranks, an unknown teacher, or unreadable prompts.
    """
    pending = [spec for spec in specs if spec.fresh or spec.folder.results() is None]
    for spec in specs:
        check_uri(spec.tracking_uri)
    for spec in pending:
        check_request(spec.config, spec.nproc)
    alone = current_world() is None
    if _apart(specs, launcher, parallel) and not alone:
        raise RequestError(
            "The processes of torchrun or srun do one run after the other: without them, or "
            "without --parallel and --launcher."
        )
    if alone:
        at = launcher or LocalLauncher(parallel or 1)
        for spec in pending:
            at.check(spec)
    configs = [spec.config for spec in pending]
    return check_sources(configs, specs[0].workspace, remote=remote) if specs else []


def launch_runs(
    specs: Sequence[RunSpec],
    launcher: Launcher | None = None,
    parallel: int | None = None,
    *,
    share: bool = False,
    watcher: Watcher | None = None,
    make_listener: Callable[[], Listener] = Listener,
    find_teacher: Callable[[str, Path], Path] = find_teacher,
    say: Say = silent_say,
) -> Launched:
    """Run what is pending, resume what was cut off, load what is done.

    What fails, or is running already, does not stop the others. What was left to others and is not
    finished is told at the end: their machine may have died.

    Args:
        launcher: where the runs' processes start; None for this machine.
        parallel: runs at once; None for one here, and for all with a launcher. One after the other
            they need no processes of their own.
        share: leave runs to others who use the store and have begun them.
        watcher: follows runs in processes of their own.
        make_listener: as for :func:`workbench.runs.execution.execute`, for runs in this process;
            so is ``find_teacher``.
        say: hears what a person should know.

    Raises:
        RequestError: the request itself is wrong.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    done = Launched()

    def is_left(spec: RunSpec) -> bool:
        return share and _is_left(spec, specs, done, say)

    if _apart(specs, launcher, parallel):
        own = [spec for spec in specs if not is_left(spec)]
        at_once = parallel or len(specs)
        _in_processes(
            own, launcher, at_once, done, is_left, watcher or Watcher(), find_teacher, say
        )
    else:
        _here(specs, done, is_left, make_listener, find_teacher, say)
    _tell_unfinished(done.left, say)
    return done


def host_of(row: RunRow) -> str:
    """The machine that does or did a run, for people."""
    return row.tags.get("host", "another machine")


def taken_elsewhere(spec: RunSpec) -> RunRow | None:
    """A run of equal settings that is finished or running in another workspace, if there is one.

    None where the store is this workspace's own, and where the run was begun here.

    Raises:
        WorkbenchError: the store does not answer.
    """
    own, config = default_uri(spec.workspace.root), spec.config
    if spec.tracking_uri == own or spec.folder.path.exists():
        return None
    where = f"tags.experiment = '{config.experiment}' AND tags.config = '{config.fingerprint()}'"
    taken = (RunState.FINISHED, RunState.RUNNING)
    rows = list_runs(spec.tracking_uri, limit=100, where=where)
    return next((row for row in rows if state_of(row) in taken), None)


def _apart(specs: Sequence[RunSpec], launcher: Launcher | None, parallel: int | None) -> bool:
    """Whether each run has a process of its own."""
    return launcher is not None or ((parallel or 1) > 1 and len(specs) > 1)


def _here(
    specs: Sequence[RunSpec],
    done: Launched,
    is_left: Callable[[RunSpec], bool],
    make_listener: Callable[[], Listener],
    find_teacher: Callable[[str, Path], Path],
    say: Say,
) -> None:
    """One after the other in this process; each is asked about when its turn has come.

    Raises:
        RequestError: the request itself is wrong, or the only one is running already.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    for place, spec in enumerate(specs, 1):
        if is_left(spec):
            continue
        if len(specs) > 1:
            say(f"[{place}/{len(specs)}] {spec.title}, on {spec.config.teacher}")
        try:
            outcome = execute(spec, make_listener=make_listener, find_teacher=find_teacher, say=say)
            done.finished.append(outcome)
        except WorkbenchError as error:
            wrong = isinstance(error, RequestError) and not isinstance(error, AlreadyRunningError)
            if len(specs) == 1 or wrong or isinstance(error, InterruptedRunError):
                raise
            say(f"Error: {spec.title}: {error}")
            done.failed.append((spec, str(error)))


def _in_processes(
    specs: Sequence[RunSpec],
    launcher: Launcher | None,
    parallel: int,
    done: Launched,
    is_left: Callable[[RunSpec], bool],
    watcher: Watcher,
    find_teacher: Callable[[str, Path], Path],
    say: Say,
) -> None:
    """Each in a process of its own, several at once.

    Args:
        is_left: others may have begun a run since the first one was started.
    """
    outcomes = {
        spec.folder.path: None if spec.fresh else load_finished(spec.folder, spec.tracking_uri, say)
        for spec in specs
    }
    waiting = [spec for spec in specs if outcomes[spec.folder.path] is None]
    for teacher, users in Counter(spec.config.teacher for spec in waiting).items():
        built = teacher in KNOWN_TEACHERS and KNOWN_TEACHERS[teacher].recipe is not None
        if built and users > 1:  # else they would wait for each other; a single user builds it
            find_teacher(teacher, waiting[0].workspace.teachers)
    if waiting:
        parallel = min(parallel, len(waiting))
        with stop_on_signals(hangup=launcher is None) as stop:
            at = launcher or LocalLauncher(parallel, say)
            views = run_jobs(waiting, at, parallel, watcher, stop, is_left=is_left)
        for view in views:
            results = view.spec.folder.results()
            if view.state is not RunState.FINISHED:
                done.failed.append((view.spec, view.problem))
            elif results is None:
                done.failed.append((view.spec, "it ended without results"))
            else:
                outcomes[view.spec.folder.path] = RunOutcome(view.spec.folder, results, True)
    done.finished += [outcome for outcome in outcomes.values() if outcome is not None]


def _is_left(spec: RunSpec, specs: Sequence[RunSpec], done: Launched, say: Say) -> bool:
    """Whether others do a run, which is then noted; no run that is done here starts at it."""
    following = [other for other in specs if starts_at(other.config, spec.config)]
    row = _taken(spec, say)
    if row is None or any(_taken(other, say) is None for other in following):
        return False
    done.left.append((spec, row))
    return True


def _taken(spec: RunSpec, say: Say) -> RunRow | None:
    """What somebody else who uses the store has done or is doing of this run; says so."""
    try:
        row = taken_elsewhere(spec)
    except WorkbenchError as error:
        say(f"Whether others have run this could not be asked: {error}")
        return None
    if row is not None:
        state = state_of(row)
        say(f"{row.experiment}/{row.name} is {state} on {host_of(row)}; --fresh runs it here too.")
    return row


def _tell_unfinished(left: Sequence[tuple[RunSpec, RunRow]], say: Say) -> None:
    """How to take over what others were doing: only after a while it shows that they died."""
    for spec, row in left:
        if state_of(row) is not RunState.FINISHED:
            config = spec.config
            say(
                f"Not finished: {row.experiment}/{row.name}, left to {host_of(row)}. If nothing "
                f"works on it there any more, take it over: this command with --variant "
                f"{config.variant} --seed {config.seed} --fresh, or any time after half an hour "
                f"without a sign of life from there."
            )
