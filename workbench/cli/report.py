"""workbench report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import print_json, say
from workbench.cli.options import (
    OUTPUT,
    AgainstOption,
    AllowMixedOption,
    FinishedOption,
    JsonOption,
    JudgeOption,
    RecipeOption,
    SetOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    with_selectors,
)


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench report t_range --out t_range.html")(report)


def report(
    name: Annotated[str, typer.Argument(help="A registered experiment by name.")],
    set_: SetOption = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="HTML file to write.",
            show_default="reports/NAME.html in the workspace",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    metric: JudgeOption = None,
    against: AgainstOption = None,
    finished: FinishedOption = False,
    allow_mixed: AllowMixedOption = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write an experiment's findings as one HTML page, and keep it beside its plan in MLflow.

    Question, settings, curves, samples, the table with intervals, and every run's versions; the
    page needs no other file and no network. Runs made with --set or --teacher have a plan and a
    report of their own, by the same options.
    """
    from workbench.registry.rows import read_changes
    from workbench.reports.page import ReportRequest, write_report
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=workspace is None)
    uri = tracking_uri or default_uri(place.root)
    other_name, changes = read_changes(with_selectors(set_, teacher, recipe))
    name = other_name or name
    request = ReportRequest(
        name, changes, metric, against, finished=finished, allow_mixed=allow_mixed
    )
    path = out or place.root / "reports" / request.file_name
    stored = write_report(request, path, uri, place)
    if json_output:
        print_json({"report": str(path), "artifact": stored})
        return
    say(f"Kept in MLflow as {stored}.")
    typer.echo(path)
