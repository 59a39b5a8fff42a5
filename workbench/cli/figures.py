"""workbench figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.cli.common import print_json, say
from workbench.cli.options import (
    OUTPUT,
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    split_names,
)

if TYPE_CHECKING:
    from workbench.reports.scripts import Outcome


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench figures --out figures/ --format png,pdf")(figures)


def figures(
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Draw only this experiment's figures. Comma-separated or repeated.",
            show_default="all",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the files.",
            show_default="figures/paper in the workspace",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="Formats of the files, comma-separated or repeated: png, svg, pdf.",
            show_default="png,svg",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    style: Annotated[
        Literal["paper", "screen"],
        typer.Option(
            help="Size of the text: for a printed page, or larger.", rich_help_panel=OUTPUT
        ),
    ] = "paper",
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw the paper's figures and tables from tracked runs, and keep them in MLflow.

    Runs every script of analysis/ for which the store has runs, and says which ones it left out.
    Where a script fails, the others are drawn and kept all the same, and the command ends with 1.
    """
    from workbench.errors import WorkbenchError
    from workbench.plotting import check_formats
    from workbench.reports.scripts import FIGURES, FiguresRequest, draw_figures, failures
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    wanted = split_names(formats or ["png", "svg"], "--format")
    check_formats(wanted)
    experiments = split_names(experiment, "--experiment") if experiment else []
    place = open_workspace(workspace, create=workspace is None)
    uri = tracking_uri or default_uri(place.root)
    folder = (out or place.root / "figures" / "paper").resolve()
    options = ("--format", ",".join(wanted), "--style", style)
    request = FiguresRequest(folder, tuple(experiments), options)
    outcomes, run_id = draw_figures(request, uri, place, _tell)
    if json_output:
        print_json({"run_id": run_id, "scripts": [_as_dict(outcome) for outcome in outcomes]})
    else:
        say(f"Kept in MLflow: experiment {FIGURES}, run {run_id}.")
        for path in (path for outcome in outcomes for path in outcome.files):
            typer.echo(path)
    if failed := failures(outcomes):
        raise WorkbenchError(f"{failed}; the others are drawn and kept.")


def _tell(outcome: Outcome) -> None:
    if outcome.skipped is not None:
        say(f"{outcome.name}: left out: {outcome.skipped}")
        return
    if outcome.failed is not None:
        say(f"{outcome.name}: failed: {outcome.failed}")
        return
    say(f"{outcome.name}: {len(outcome.files)} files")
    for note in outcome.notes:
        say(f"  {note}")


def _as_dict(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.name,
        "files": [str(path) for path in outcome.files],
        "notes": list(outcome.notes),
        "skipped": outcome.skipped,
        "failed": outcome.failed,
    }
