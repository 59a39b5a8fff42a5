"""workbench run."""

from __future__ import annotations

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
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.registry import RequestedRuns
    from workbench.runs.execution import RunOutcome
    from workbench.runs.spec import RunSpec
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
    from workbench.cli.building import find_with_bar
    from workbench.cli.live import JobsWatcher
    from workbench.cli.progress import TerminalListener
    from workbench.launching.runs import find_launcher, launch_runs
    from workbench.registry import request_runs
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    at = find_launcher(launcher, slurm or [])
    wanted = request_runs(
        experiment,
        place,
        uri,
        variants=variant,
        seeds=None if seeds is None else parse_seeds(seeds),
        changes=with_selectors(set_, teacher, recipe),
        nproc=nproc,
        fresh=fresh,
        new_version=new_version,
        launcher=at,
        parallel=parallel,
        dry_run=dry_run,
        say=say,
    )
    if dry_run:
        _show_plan(wanted, json_output)
        return
    done = launch_runs(
        wanted.specs,
        at,
        parallel,
        # A saved configuration is run as it is asked for: by a person, or by another command.
        share=wanted.plan is not None and not fresh,
        watcher=JobsWatcher(),
        make_listener=TerminalListener,
        find_teacher=find_with_bar,
        say=say,
    )
    _report(done.finished, place, uri, json_output, single=len(wanted.specs) == 1)
    all_, ended = len(wanted.specs), len(done.finished)
    if ended + len(done.left) < all_:
        raise WorkbenchError(f"{ended} of {all_} runs are done; the same command continues.")


def _show_plan(wanted: RequestedRuns, json_output: bool) -> None:
    origins = wanted.origins
    if json_output:
        plans = [
            {**spec.config.model_dump(mode="json"), "origins": origins[spec.config.variant]}
            for spec in wanted.specs
        ]
        print_json(plans[0] if len(plans) == 1 else {"runs": plans})
    else:
        _print_plan(wanted.specs, origins)
    for problem in wanted.missing:
        say(f"Missing here, and a run would be refused for it: {problem}")


def _print_plan(specs: list[RunSpec], origins: dict[str, dict[str, str]]) -> None:
    flat = [spec.config.flat() for spec in specs]
    keys = [key for key in flat[0] if all(f.get(key) == flat[0][key] for f in flat)]
    shown = [key for key in keys if key not in ("format", "experiment", "variant", "seed")]
    rows = [[key, flat[0][key], _origin(key, origins)] for key in shown]
    print_table(["setting", "value", "from"], rows)
    for spec, settings in zip(specs, flat, strict=True):
        own = ", ".join(f"{key}={value}" for key, value in settings.items() if key not in keys)
        folder = spec.folder
        if spec.fresh or not folder.path.exists():
            state = "would start"
        else:
            state = "is finished:" if folder.results_file.exists() else "would resume"
        typer.echo(f"{state} {folder.path} ({spec.config.total_nimg} images){own and f'  {own}'}")


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
