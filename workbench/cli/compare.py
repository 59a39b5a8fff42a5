"""workbench compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import (
    OUTPUT,
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    own_command,
    print_json,
    print_table,
    say,
)
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.reports import Comparison, Group
    from workbench.workspace import Workspace

WHAT = "What to compare"
_MOST_IN_AN_ADDRESS = 100


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench compare t_range --figure t_range.png")(compare)


def compare(
    references: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Experiments (all their variants), EXPERIMENT/VARIANT, or runs by name or id.",
        ),
    ],
    metric: Annotated[
        str, typer.Option(help="Sorts and judges: fid or alignment.", rich_help_panel=WHAT)
    ] = "fid",
    finished: Annotated[
        bool, typer.Option("--finished", help="Only finished runs.", rich_help_panel=WHAT)
    ] = False,
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed", help="Although evaluated in different ways.", rich_help_panel=WHAT
        ),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(help="Write every number to this file.", rich_help_panel=OUTPUT)
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Draw curves and values: .png, .svg or .pdf.", rich_help_panel=OUTPUT),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Tables in Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Put variants side by side: best, last, at equal kimg and seconds, with 95 % intervals.

    Runs of equal settings are averaged over their seeds. Older settings under the same name and
    runs set aside by --fresh stand in rows of their own.
    """
    from workbench.reports import compare as put_side_by_side
    from workbench.reports import draw, select, write_csv
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    if markdown and json_output:
        raise RequestError("--json and --markdown both write to stdout: choose one.")
    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    selection = select(uri, place, references, finished=finished, allow_mixed=allow_mixed)
    comparison = put_side_by_side(selection, metric)
    if csv is not None:
        write_csv(comparison, csv)
        say(f"Numbers: {csv}")
    if figure is not None:
        say(f"Figure: {draw(selection.groups, metric, figure)}")
    view = _view(comparison.groups, uri, place)
    if json_output:
        print_json({**comparison.as_dict(), "view": view})
    else:
        _show(comparison, markdown)
        for note in comparison.notes:
            say(f"Note: {note}")
        say(f"In the browser:  {view}")


def _show(comparison: Comparison, markdown: bool) -> None:
    from workbench.reports import all_tables

    found = all_tables(comparison)
    if markdown:
        typer.echo("\n".join(table.markdown() for table in found))
        return
    for table in found:
        print_table(table.columns, table.rows, table.title)


def _view(groups: tuple[Group, ...], uri: str, workspace: Workspace) -> str:
    """The MLflow page with these runs side by side, or the command that serves it."""
    from workbench.tracking import compare_address, experiment_address, without_user

    rows = [run.row for group in groups for run in group.runs]
    if not uri.startswith(("http://", "https://")):
        experiment = rows[0].experiment
        return f"{own_command()} ui --workspace {workspace.root} --experiment {experiment}"
    base = without_user(uri)
    experiments = list(dict.fromkeys(row.experiment_id for row in rows))
    if len(rows) > _MOST_IN_AN_ADDRESS:
        return experiment_address(base, experiments[0], charts=True)
    return compare_address(base, experiments, [row.run_id for row in rows])
