"""workbench run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import (
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    parse_seeds,
    print_error,
    print_json,
    print_table,
    say,
    with_teacher,
)
from workbench.errors import InterruptedRunError, RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.registry import Plan
    from workbench.runs import Job, Launcher, RunOutcome
    from workbench.training.config import RunConfig
    from workbench.training.nodes import Nodes
    from workbench.workspace import Workspace

WHAT = "What to run"
HOW = "How to run it"


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench run t_range --seeds 0,1,2 --parallel 2")(run)


def run(
    experiment: Annotated[
        str, typer.Argument(help="Experiment by name, or the config.json that a run saved.")
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(help="Only this one; repeatable (default: all).", rich_help_panel=WHAT),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            "--seed",
            metavar="0,1,2",
            help="Random seeds, one run each (default: 0).",
            rich_help_panel=WHAT,
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting; repeatable.", rich_help_panel=WHAT
        ),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Name, folder or hub id.", rich_help_panel=WHAT)
    ] = None,
    new_version: Annotated[
        bool,
        typer.Option(
            "--new-version",
            help="Go on although a variant's settings changed under its name.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs at once (default: 1; with Slurm all).",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes to shard a run over.", rich_help_panel=HOW)
    ] = 1,
    nodes: Annotated[
        int, typer.Option(min=1, help="Machines to shard a run over.", rich_help_panel=HOW)
    ] = 1,
    node_rank: Annotated[
        int, typer.Option(min=0, help="This machine's place among them.", rich_help_panel=HOW)
    ] = 0,
    rendezvous: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Of node 0, for all.", rich_help_panel=HOW),
    ] = None,
    launcher: Annotated[
        str, typer.Option(help="local, or slurm for one job a run.", rich_help_panel=HOW)
    ] = "local",
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A setting of the Slurm jobs; repeatable.",
            rich_help_panel=HOW,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Start over; the old run is kept.", rich_help_panel=HOW),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the settings and stop.", rich_help_panel=HOW),
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Distil a teacher: trains, tracks, evaluates and draws; the same command resumes.

    Runs what is pending, resumes what was cut off and recalls what is done.
    """
    from workbench.registry import register as register_plan
    from workbench.runs import Job, check_request
    from workbench.tracking import default_uri
    from workbench.training.nodes import Nodes
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    start = _launcher(launcher, slurm or [])
    machines = Nodes(nodes, node_rank, rendezvous)
    changes = with_teacher(set_, teacher)
    plan, configs = _requested(experiment, variant, changes, seeds, new_version)
    for config in configs:
        check_request(config, nproc, machines)
    at_once = parallel or (1 if start is None else len(configs))
    apart = start is not None or (at_once > 1 and len(configs) > 1)
    if apart and machines.count > 1:
        raise RequestError(
            "--nodes is for runs one after the other on this machine: neither with --parallel nor "
            "with --launcher slurm, which takes --slurm nodes=N."
        )
    if dry_run:
        _show_plan(configs, place, json_output)
        return
    if plan is not None:
        chosen = tuple(dict.fromkeys(config.seed for config in configs))
        register_plan(plan, chosen, place, uri, new_version=new_version, ask_store=False, say=say)
    jobs = [Job(config, place, uri, nproc, fresh) for config in configs]
    # A saved configuration is run as it is asked for: by a person, or by another command.
    share = plan is not None and not fresh and machines.count == 1
    if apart:
        left = [job for job in jobs if not (share and _is_taken(job))]
        outcomes, taken = _in_processes(left, start, at_once), len(jobs) - len(left)
    else:
        outcomes, taken = _here(jobs, machines, share)
    _report(outcomes, place, json_output, single=len(jobs) == 1)
    if len(outcomes) + taken < len(jobs):
        done, all_ = len(outcomes), len(jobs)
        raise WorkbenchError(f"{done} of {all_} runs are done; the same command continues.")


def _requested(
    experiment: str,
    variants: list[str] | None,
    changes: list[str],
    seeds: str | None,
    new_version: bool,
) -> tuple[Plan | None, list[RunConfig]]:
    """The runs of an experiment, all variants of a seed before the next, and its plan.

    A saved configuration has no plan.
    """
    from workbench.errors import unknown_name
    from workbench.registry import get_experiment, make_plan

    if experiment.endswith(".json"):
        if variants or new_version:
            raise RequestError("--variant and --new-version need an experiment's name.")
        return None, _saved(Path(experiment), changes, seeds)
    plan = make_plan(get_experiment(experiment), changes)
    for name in variants or ():
        if name not in plan.variants:
            raise unknown_name(f"variant of {experiment}", name, plan.variants)
    chosen = [(seed, name) for seed in parse_seeds(seeds) for name in variants or plan.variants]
    return plan, [plan.config(name, seed) for seed, name in chosen]


def _saved(file: Path, changes: list[str], seeds: str | None) -> list[RunConfig]:
    from workbench.training.config import load_config, with_overrides

    config = with_overrides(load_config(file), changes)
    chosen = parse_seeds(seeds, (config.seed,))
    return [config.model_copy(update={"seed": seed}) for seed in chosen]


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


def _launcher(name: str, slurm: list[str]) -> Launcher | None:
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
        if share and _is_taken(job):
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
    from workbench.runs import LocalLauncher, RunOutcome, run_jobs, stop_on_signals
    from workbench.runs.state import RunState

    ready = {job.folder.path: job.folder.results() for job in jobs if not job.fresh}
    waiting = [job for job in jobs if ready.get(job.folder.path) is None]
    for teacher, users in Counter(job.config.teacher for job in waiting).items():
        if users > 1:  # else they would wait for each other's building; a single user builds it
            ensure_with_bar(teacher, waiting[0].workspace.teachers)
    if waiting:
        watcher = JobsWatcher(waiting[0].config.experiment)
        with stop_on_signals() as stop:
            place = launcher or LocalLauncher(parallel)
            views = run_jobs(waiting, place, parallel, watcher, stop)
        done = {v.job.folder.path for v in views if v.state is RunState.FINISHED}
    outcomes = []
    for job in jobs:
        results = job.folder.results()
        trained = job in waiting
        if results is not None and (not trained or job.folder.path in done):
            outcomes.append(RunOutcome(job.folder, results, trained))
    return outcomes


def _show_plan(configs: list[RunConfig], place: Workspace, json_output: bool) -> None:
    from workbench.runs import run_folder

    if json_output:
        plans = [config.model_dump(mode="json") for config in configs]
        print_json(plans[0] if len(plans) == 1 else {"runs": plans})
        return
    flat = [config.flat() for config in configs]
    keys = [key for key in flat[0] if all(f.get(key) == flat[0][key] for f in flat)]
    print_table(["setting", "value"], [[key, flat[0][key]] for key in keys])
    for config, settings in zip(configs, flat, strict=True):
        own = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in keys)
        folder = run_folder(place, config)
        state = "would start"
        if folder.checkpoints.exists():
            state = "is finished:" if folder.results_file.exists() else "would resume"
        typer.echo(f"{state} {folder.path} ({config.total_nimg} images){own and f'  {own}'}")


def _report(
    outcomes: list[RunOutcome], place: Workspace, json_output: bool, *, single: bool
) -> None:
    from workbench.cli.outcomes import show_outcomes

    figures = _figures(outcomes, place)
    if not json_output:
        show_outcomes(outcomes, figures, place)
        return
    results = [outcome.results for outcome in outcomes]
    several = {"runs": results, "figures": figures}
    print_json(results[0] if single and results else several)


def _figures(outcomes: list[RunOutcome], place: Workspace) -> list[str]:
    """A run's own figures; of several runs the experiment's, drawn now."""
    from workbench.runs.figures import draw_panels

    if len(outcomes) > 1:
        experiment = outcomes[0].folder.path.parent.name
        variants = {o.folder.path: o.folder.config().variant for o in outcomes}
        files = draw_panels(variants, place.root / "figures" / experiment)
        return [str(file) for file in files]
    return [str(figure) for outcome in outcomes for figure in outcome.results["figures"]]
