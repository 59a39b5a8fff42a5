"""workbench run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.common import (
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    own_command,
    print_json,
    print_table,
    say,
)

if TYPE_CHECKING:
    from workbench.runs import RunOutcome
    from workbench.training.config import RunConfig
    from workbench.workspace import Workspace

WHAT = "What to run"
HOW = "How to run it"


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Example:  workbench run quickstart --set training.batch_size=64 --seed 3 --nproc 2"
    )(run)


def run(
    experiment: Annotated[
        str, typer.Argument(help="Experiment by name, or the config.json that a run saved.")
    ],
    variant: Annotated[
        str | None, typer.Option(help="(default: the first)", rich_help_panel=WHAT)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting; repeatable.", rich_help_panel=WHAT
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.", rich_help_panel=WHAT)] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Name, folder or hub id.", rich_help_panel=WHAT)
    ] = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes to shard over.", rich_help_panel=HOW)
    ] = 1,
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
    """Distil a teacher: trains, tracks, evaluates and draws; the same command resumes."""
    from workbench.cli.building import find_with_bar
    from workbench.cli.progress import TerminalListener
    from workbench.runs import RunRequest, check_request, execute
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    config = _resolve(experiment, variant, seed, teacher, set_ or [])
    place = open_workspace(workspace)
    if dry_run:
        check_request(config, nproc)
        _show_plan(config, place, json_output)
        return
    uri = tracking_uri or default_uri(place.root)
    request = RunRequest(config, place, uri, nproc, fresh, TerminalListener, find_with_bar, say)
    outcome = execute(request)
    if json_output:
        print_json(outcome.results)
        return
    _show_outcome(outcome, place)


def _resolve(
    experiment: str,
    variant: str | None,
    seed: int | None,
    teacher: str | None,
    assignments: list[str],
) -> RunConfig:
    from workbench.registry import get_experiment
    from workbench.training.config import load_config, with_overrides

    if experiment.endswith(".json"):
        config = load_config(Path(experiment))
    else:
        config = get_experiment(experiment).variant(variant)
    if seed is not None:
        assignments = [*assignments, f"seed={seed}"]
    if teacher is not None:
        assignments = [*assignments, f"teacher={teacher}"]
    return with_overrides(config, assignments)


def _show_plan(config: RunConfig, workspace: Workspace, json_output: bool) -> None:
    from workbench.runs import run_folder

    if json_output:
        print_json(config.model_dump(mode="json"))
        return
    folder = run_folder(workspace, config)
    print_table(["setting", "value"], [list(pair) for pair in config.flat().items()])
    state = "would start"
    if folder.checkpoints.exists():
        state = "is finished:" if folder.results_file.exists() else "would resume"
    typer.echo(f"{state} {folder.path} ({config.total_nimg} images)")


def _show_outcome(outcome: RunOutcome, workspace: Workspace) -> None:
    results = outcome.results
    if not outcome.trained:
        say("This run was finished before; --fresh starts over. Its results:")
    print_results(results["table"], str(results["run"]))
    for figure in results["figures"]:
        typer.echo(figure)
    command = f"{own_command()} ui --workspace {workspace.root} --experiment"
    typer.echo(f"Compare runs in the browser:  {command} {outcome.folder.path.parent.name}")


def print_results(table: list[dict[str, Any]], title: str) -> None:
    """The table of teacher and student by steps."""
    scores = [
        key
        for key in table[0]
        if key not in ("model", "steps", "nfe", "ms_per_image", "fingerprint")
    ]
    print_table(
        ["model", "steps", "NFE", *(_heading(score) for score in scores), "ms/image"],
        [
            [
                str(row["model"]),
                str(row["steps"]),
                str(row["nfe"]),
                *(_number(row[score]) for score in scores),
                f"{row['ms_per_image']:.2f}",
            ]
            for row in table
        ],
        title,
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _heading(score: str) -> str:
    return score.upper() if len(score) <= 3 else score
