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
    print_json,
    print_table,
    say,
)
from workbench.cli.follow_up import follow_up
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.reports import Group
    from workbench.reports.tables import Table
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
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Sorts and judges: any score measured during training, or one that workbench "
            "evaluate logged (always, where one of the next three is given). "
            "Default: what judged the runs themselves.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Of evaluate: what was measured against (default: the only one there is).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of evaluate: the student's steps (default: the only number there is).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Of evaluate: how it was measured, where all runs were measured in several ways.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="Compare all others with this one, named before its scores are seen (default: "
            "with the best, which corrects for all pairs).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    finished: Annotated[
        bool, typer.Option("--finished", help="Only finished runs.", rich_help_panel=WHAT)
    ] = False,
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed", help="Although evaluated in different ways.", rich_help_panel=WHAT
        ),
    ] = False,
    all_: Annotated[
        bool,
        typer.Option("--all", help="Also runs made with --set or --teacher.", rich_help_panel=WHAT),
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
    """Put variants side by side, with 95 % intervals: best, last, at equal kimg and seconds.

    Runs of equal settings are averaged over their seeds; intervals cover training and evaluation,
    and verdicts are corrected for their number (Holm). Older settings under the same name and
    runs set aside by --fresh stand in rows of their own; runs made with --set or --teacher are left
    out where finished ones without are there (--all). Scores of workbench evaluate are compared
    with --metric kid --reference coco10k --steps 4.
    """
    from workbench.reports import ScoreComparison, all_tables, write_csv
    from workbench.reports.api import compare as compare_runs
    from workbench.tracking import default_uri
    from workbench.workspace import open_workspace

    if markdown and json_output:
        raise RequestError("--json and --markdown both write to stdout: choose one.")
    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    found = compare_runs(
        *references,
        metric=metric,
        against=against,
        reference=reference,
        steps=steps,
        protocol=protocol,
        finished=finished,
        changed=all_,
        allow_mixed=allow_mixed,
        workspace=place.root,
        tracking_uri=uri,
    )
    if figure is not None:
        if isinstance(found, ScoreComparison):
            raise RequestError(
                f"--figure draws scores of training; {found.metric} is of evaluate: drop it."
            )
        from workbench.reports.figures.variants import draw

        say(f"Figure: {draw(found.selected, found.metric, figure)}")
    if csv is not None:
        write_csv(found, csv)
        say(f"Numbers: {csv}")
    view = _view(found.groups, uri, place)
    if json_output:
        print_json({**found.as_dict(), "view": view})
    else:
        _show(all_tables(found), markdown)
        for note in found.notes:
            say(f"Note: {note}")
        say(f"In the browser:  {view}")


def _show(found: list[Table], markdown: bool) -> None:
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
        return follow_up(workspace, uri, "ui", "--experiment", rows[0].experiment)
    base = without_user(uri)
    experiments = list(dict.fromkeys(row.experiment_id for row in rows))
    if len(rows) > _MOST_IN_AN_ADDRESS:
        return experiment_address(base, experiments[0], charts=True)
    return compare_address(base, experiments, [row.run_id for row in rows])
