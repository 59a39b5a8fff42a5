"""workbench compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.follow_up import follow_up
from workbench.cli.options import (
    OUTPUT,
    WHAT,
    AgainstOption,
    AllowMixedOption,
    FinishedOption,
    JsonOption,
    JudgeOption,
    TrackingOption,
    WorkspaceOption,
)
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.reports import Group
    from workbench.reports.tables import Table
    from workbench.workspace import Workspace

_MOST_IN_AN_ADDRESS = 100


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench compare t_range --figure t_range.png")(compare)


NamesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME...",
        help="Experiments (all their variants), EXPERIMENT/VARIANT, or runs by name or id.",
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        help="Compare scores of `workbench evaluate` that were measured against this reference.",
        show_default="the only one there is",
        rich_help_panel=WHAT,
    ),
]
StepsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Compare scores of `workbench evaluate` at so many sampling steps.",
        show_default="the only number there is",
        rich_help_panel=WHAT,
    ),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="Compare scores of `workbench evaluate` that were measured in this way, if all runs "
        "were measured in several.",
        rich_help_panel=WHAT,
    ),
]
AllOption = Annotated[
    bool,
    typer.Option(
        "--all", help="Also compare runs made with --set or --teacher.", rich_help_panel=WHAT
    ),
]
CsvOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write every number to this file.", rich_help_panel=OUTPUT),
]
FigureOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw curves and values into this file: .png, .svg or .pdf.",
        rich_help_panel=OUTPUT,
    ),
]
MarkdownOption = Annotated[
    bool, typer.Option("--markdown", help="Print the tables in Markdown.", rich_help_panel=OUTPUT)
]


def compare(
    names: NamesArgument,
    metric: JudgeOption = None,
    reference: ReferenceOption = None,
    steps: StepsOption = None,
    protocol: ProtocolOption = None,
    against: AgainstOption = None,
    finished: FinishedOption = False,
    allow_mixed: AllowMixedOption = False,
    all_: AllOption = False,
    csv: CsvOption = None,
    figure: FigureOption = None,
    markdown: MarkdownOption = False,
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
    from workbench.reports.api import where

    if markdown and json_output:
        raise RequestError("--json and --markdown both write to stdout: choose one.")
    place, uri = where(workspace, tracking_uri)
    found = compare_runs(
        *names,
        metric=metric,
        against=against,
        reference=reference,
        steps=steps,
        protocol=protocol,
        finished=finished,
        changed=all_,
        allow_mixed=allow_mixed,
        workspace=workspace,
        tracking_uri=uri,
    )
    if figure is not None:
        if isinstance(found, ScoreComparison):
            raise RequestError(
                f"--figure draws scores measured during training, and {found.metric} is a score of "
                "`workbench evaluate`: leave out --figure."
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
