"""workbench run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import (
    EXECUTION,
    SETTINGS,
    JsonOption,
    LauncherOption,
    NewVersionOption,
    NprocOption,
    RecipeOption,
    SeedListOption,
    SetOption,
    SlurmOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    parse_seeds,
    with_selectors,
)
from workbench.errors import RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.launching.jobs import Job
    from workbench.registry import Plan
    from workbench.runs.execution import RunOutcome
    from workbench.training.config import RunConfig
    from workbench.workspace import Workspace


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench run t_range --seed 0,1,2 --parallel 2")(run)


def run(
    experiment: Annotated[
        str, typer.Argument(help="Experiment by name, or the config.json that a run saved.")
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT",
            help="Run only this variant; repeatable.",
            show_default="all",
            rich_help_panel=SETTINGS,
        ),
    ] = None,
    seeds: SeedListOption = None,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    new_version: NewVersionOption = False,
    parallel: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Runs that go on at once.",
            show_default="1; all with --launcher slurm",
            rich_help_panel=EXECUTION,
        ),
    ] = None,
    nproc: NprocOption = 1,
    launcher: LauncherOption = "local",
    slurm: SlurmOption = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Start over, and keep the old run.", rich_help_panel=EXECUTION
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show every setting, where it comes from and what would run; then stop.",
            rich_help_panel=EXECUTION,
        ),
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Distil a teacher: trains, tracks, evaluates and draws; the same command resumes.

    Runs what is pending, resumes what was cut off and recalls what is done.
    """
    from workbench.cli.launch import LaunchOptions, check_jobs, find_launcher, launch_jobs
    from workbench.launching.jobs import Job
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    launch_from = find_launcher(launcher, slurm or [])
    how = LaunchOptions(launch_from, parallel)
    changes = with_selectors(set_, teacher, recipe)
    plan, configs, origins = _requested(
        experiment, variant, changes, seeds, new_version, place, uri
    )
    jobs = [Job(config, place, uri, nproc, fresh) for config in configs]
    missing = check_jobs(jobs, how, remote=not dry_run)
    if plan is not None:
        _settle(plan, jobs, new_version=new_version, dry_run=dry_run)
    if dry_run:
        _show_plan(configs, origins, place, json_output)
        for problem in missing:
            say(f"Missing here, and a run would be refused for it: {problem}")
        return
    # A saved configuration is run as it is asked for: by a person, or by another command.
    share = plan is not None and not fresh
    outcomes, taken = launch_jobs(jobs, how, share)
    _report(outcomes, place, uri, json_output, single=len(jobs) == 1)
    if len(outcomes) + taken < len(jobs):
        done, all_ = len(outcomes), len(jobs)
        raise WorkbenchError(f"{done} of {all_} runs are done; the same command continues.")


def _settle(plan: Plan, jobs: list[Job], *, new_version: bool, dry_run: bool) -> None:
    """Register the plan with these runs' seeds, or only see whether that would be refused.

    Seeds of a few variants are not the plan's, which are for all of its variants.

    Raises:
        RequestError: a variant's settings changed, or the registered plan was changed by hand.
    """
    from workbench.registry import check_plan
    from workbench.registry import register as register_plan

    settle = check_plan if dry_run else register_plan
    whole = {job.config.variant for job in jobs} == set(plan.variants)
    seeds = tuple(dict.fromkeys(job.config.seed for job in jobs)) if whole else ()
    place, uri = jobs[0].workspace, jobs[0].tracking_uri
    settle(plan, seeds, place, uri, new_version=new_version, ask_store=False, say=say)


def _requested(
    experiment: str,
    variants: list[str] | None,
    changes: list[str],
    seeds: list[str] | None,
    new_version: bool,
    place: Workspace,
    uri: str,
) -> tuple[Plan | None, list[RunConfig], dict[str, dict[str, str]]]:
    """The runs of an experiment, all variants of a seed before the next, and its plan.

    A variant comes after the one that it starts at, which joins it. A saved configuration has no
    plan. The last value says, by variant and setting, where each comes from.
    """
    from workbench.errors import unknown_name
    from workbench.registry import get_experiment, make_plan
    from workbench.registry.plan import resolve_variants
    from workbench.runs.start_variant import with_starts
    from workbench.teachers.catalog import check_teacher
    from workbench.training.recipes import SET, check_known

    if experiment.endswith(".json"):
        if variants or new_version:
            raise RequestError("--variant and --new-version need an experiment's name.")
        saved = _saved(Path(experiment), changes, seeds)
        origin = dict.fromkeys(saved[0].flat(), experiment)
        changed = [text.partition("=")[0].strip() for text in changes]
        origin |= {key: SET for key in origin for own in changed if f"{key}.".startswith(f"{own}.")}
        return None, saved, {config.variant: origin for config in saved}
    found = get_experiment(experiment)
    plan = make_plan(found, changes, variants or None)
    for name in variants or ():
        if name not in plan.variants:
            raise unknown_name(f"variant of {experiment}", name, plan.variants)
    names = with_starts(plan.variants, variants or plan.variants)
    for change, untouched in plan.untouched.items():
        if others := [name for name in names if name in untouched]:
            say(f"{change} leaves {', '.join(others)} as it is: no setting of its method.")
    resolved = resolve_variants(found, plan.experiment, plan.changes)
    for name in names:
        check_teacher(resolved[name].config.teacher)  # first: what is no teacher has no recipe
        check_known(resolved[name])
    planned = () if seeds is not None else _planned_seeds(plan, place, uri, new_version)
    chosen = [(seed, name) for seed in parse_seeds(seeds, planned or (0,)) for name in names]
    origins = {name: resolved[name].origins for name in names}
    return plan, [plan.config(name, seed) for seed, name in chosen], origins


def _planned_seeds(plan: Plan, place: Workspace, uri: str, new_version: bool) -> tuple[int, ...]:
    """The seeds that a plan is registered with; none where it is not, or a version begins.

    Raises:
        RequestError: a variant's settings changed, or the registered plan was changed by hand.
    """
    from workbench.registry import check_plan

    def silent(text: str) -> None:
        """What is in the way of the store is told once, when the plan is registered."""

    found = check_plan(plan, (), place, uri, new_version=new_version, ask_store=False, say=silent)
    if found.seeds not in ((), (0,)):
        say(f"Seeds {', '.join(map(str, found.seeds))}, as registered; --seed takes others.")
    return found.seeds


def _saved(file: Path, changes: list[str], seeds: list[str] | None) -> list[RunConfig]:
    from workbench.training.config import load_config
    from workbench.training.overrides import with_overrides

    config = with_overrides(load_config(file), changes)
    chosen = parse_seeds(seeds, (config.seed,))
    return [config.model_copy(update={"seed": seed}) for seed in chosen]


def _show_plan(
    configs: list[RunConfig],
    origins: dict[str, dict[str, str]],
    place: Workspace,
    json_output: bool,
) -> None:
    from workbench.training.run_folder import run_folder

    if json_output:
        plans = [
            {**config.model_dump(mode="json"), "origins": origins[config.variant]}
            for config in configs
        ]
        print_json(plans[0] if len(plans) == 1 else {"runs": plans})
        return
    flat = [config.flat() for config in configs]
    keys = [key for key in flat[0] if all(f.get(key) == flat[0][key] for f in flat)]
    shown = [key for key in keys if key not in ("format", "experiment", "variant", "seed")]
    rows = [[key, flat[0][key], _origin(key, origins)] for key in shown]
    print_table(["setting", "value", "from"], rows)
    for config, settings in zip(configs, flat, strict=True):
        own = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in keys)
        folder = run_folder(place, config)
        state = "would start"
        if folder.checkpoints.exists():
            state = "is finished:" if folder.results_file.exists() else "would resume"
        typer.echo(f"{state} {folder.path} ({config.total_nimg} images){own and f'  {own}'}")


def _origin(key: str, origins: dict[str, dict[str, str]]) -> str:
    """Where a setting that all variants share comes from."""
    told = list(dict.fromkeys(by_key.get(key, "") for by_key in origins.values()))
    return told[0] if len(told) == 1 else "; ".join(told)


def _report(
    outcomes: list[RunOutcome], place: Workspace, uri: str, json_output: bool, *, single: bool
) -> None:
    from workbench.cli.outcomes import show_outcomes

    figures = _figures(outcomes, place)
    if not json_output:
        show_outcomes(outcomes, figures, place, uri)
        return
    results = [outcome.results for outcome in outcomes]
    several = {"runs": results, "figures": figures}
    print_json(results[0] if single and results else several)


def _figures(outcomes: list[RunOutcome], place: Workspace) -> list[str]:
    """A run's own figures; of several runs that share a distance its curves, drawn now."""
    from workbench.metrics import first_distance
    from workbench.runs.figures import draw_panels

    tables = [outcome.results["table"] for outcome in outcomes]
    measured = [{name for row in table for name in row} for table in tables]
    if len(outcomes) > 1 and first_distance(set.intersection(*measured)):
        experiment = outcomes[0].folder.path.parent.name
        variants = {o.folder.path: o.folder.config().variant for o in outcomes}
        files = draw_panels(variants, place.root / "figures" / experiment)
        return [str(file) for file in files]
    return [str(figure) for outcome in outcomes for figure in outcome.results["figures"]]
