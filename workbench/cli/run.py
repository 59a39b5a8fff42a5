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
    print_error,
    print_json,
    print_table,
    say,
)
from workbench.errors import InterruptedRunError, RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.runs import RunOutcome, RunRequest
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
        str | None, typer.Option(help="(default: all, one after the other)", rich_help_panel=WHAT)
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
    from workbench.runs import RunRequest, check_request
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    configs = _resolve(experiment, variant, seed, teacher, set_ or [])
    place = open_workspace(workspace)
    if dry_run:
        for config in configs:
            check_request(config, nproc)
        _show_plan(configs, place, json_output)
        return
    uri = tracking_uri or default_uri(place.root)
    requests = [
        RunRequest(config, place, uri, nproc, fresh, TerminalListener, find_with_bar, say)
        for config in configs
    ]
    outcomes = _execute_all(requests)
    figures = _figures(outcomes, place)
    if json_output:
        results = [outcome.results for outcome in outcomes]
        several = {"runs": results, "figures": figures}
        print_json(results[0] if len(requests) == 1 else several)
    else:
        _show_outcomes(outcomes, figures, place)
    if len(outcomes) < len(requests):
        done, all_ = len(outcomes), len(requests)
        raise WorkbenchError(f"{done} of {all_} variants are done; the same command continues.")


def _execute_all(requests: list[RunRequest]) -> list[RunOutcome]:
    """One after the other; with several, one that fails is reported and the rest still run.

    Raises:
        RequestError: the request itself is wrong.
        WorkbenchError: the only one failed, or one was interrupted.
    """
    from workbench.runs import execute

    outcomes = []
    for place, request in enumerate(requests, 1):
        if len(requests) > 1:
            say(f"[{place}/{len(requests)}] {request.config.variant} on {request.config.teacher}")
        try:
            outcomes.append(execute(request))
        except (RequestError, InterruptedRunError):
            raise
        except WorkbenchError as error:
            if len(requests) == 1:
                raise
            print_error(f"{request.config.variant}: {error}")
    return outcomes


def _resolve(
    experiment: str,
    variant: str | None,
    seed: int | None,
    teacher: str | None,
    assignments: list[str],
) -> list[RunConfig]:
    """The chosen variant, or every one, with the person's changes."""
    from workbench.registry import get_experiment
    from workbench.training.config import load_config, with_overrides

    if experiment.endswith(".json"):
        configs = [load_config(Path(experiment))]
    else:
        found = get_experiment(experiment)
        names = list(found.variants) if variant is None else [variant]
        configs = [found.variant(name) for name in names]
    if seed is not None:
        assignments = [*assignments, f"seed={seed}"]
    if teacher is not None:
        assignments = [*assignments, f"teacher={teacher}"]
    return [with_overrides(config, assignments) for config in configs]


def _show_plan(configs: list[RunConfig], workspace: Workspace, json_output: bool) -> None:
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
        folder = run_folder(workspace, config)
        state = "would start"
        if folder.checkpoints.exists():
            state = "is finished:" if folder.results_file.exists() else "would resume"
        typer.echo(f"{state} {folder.path} ({config.total_nimg} images){own and f'  {own}'}")


def _figures(outcomes: list[RunOutcome], workspace: Workspace) -> list[str]:
    """A run's own figures; of several runs the experiment's, drawn now."""
    from workbench.runs.figures import draw_panels

    if len(outcomes) > 1:
        experiment = outcomes[0].folder.path.parent.name
        return [str(file) for file in draw_panels(workspace, experiment)]
    return [str(figure) for outcome in outcomes for figure in outcome.results["figures"]]


def _show_outcomes(outcomes: list[RunOutcome], figures: list[str], workspace: Workspace) -> None:
    for outcome in outcomes:
        if not outcome.trained:
            say(f"{outcome.folder.name} was finished before; --fresh starts over. Its results:")
        print_results(outcome.results["table"], str(outcome.results["run"]))
    if not outcomes:
        return
    experiment = outcomes[0].folder.path.parent.name
    for figure in figures:
        typer.echo(figure)
    command = f"{own_command()} ui --workspace {workspace.root} --experiment"
    typer.echo(f"Compare runs in the browser:  {command} {experiment}")


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
