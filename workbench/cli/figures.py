"""workbench figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import (
    OUTPUT,
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    print_json,
    say,
)

if TYPE_CHECKING:
    from workbench.reports.scripts import Outcome


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench figures --out figures/ --format png,pdf")(figures)


def figures(
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Only figures of this experiment; repeatable.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the files (default: figures/paper in the workspace).",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Any of png,svg,pdf.", rich_help_panel=OUTPUT)
    ] = "png,svg",
    style: Annotated[
        str, typer.Option(help="paper or screen (larger).", rich_help_panel=OUTPUT)
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
    from workbench.plotting import check_formats, check_style
    from workbench.reports.scripts import FIGURES, FiguresRequest, draw_figures, failures
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    check_formats(formats.split(","))
    check_style(style)
    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    folder = (out or place.root / "figures" / "paper").resolve()
    options = ("--format", formats, "--style", style)
    request = FiguresRequest(folder, tuple(experiment or ()), options)
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
