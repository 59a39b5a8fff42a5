"""workbench runs list."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.common import print_json, print_table, say, table_of
from workbench.cli.options import JsonOption, TrackingOption, WorkspaceOption, parse_seeds
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.workspace import Workspace

WHICH = "Which runs"
_REFRESH_SECONDS = 2.0


class State(StrEnum):
    """States that a run which is listed may be in; those of a tracked run need heavier imports."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    ARCHIVED = "archived"


def register(app: typer.Typer) -> None:
    app.command("list", epilog="Example:  workbench runs list --experiment t_range --sort best")(
        list_
    )


def list_(
    experiment: Annotated[
        list[str] | None,
        typer.Option(
            help="Only of this experiment; repeatable.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Only of this variant; repeatable.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SEED,...",
            help="Only with these seeds. Comma-separated or repeated.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Only of this teacher; repeatable.",
            rich_help_panel=WHICH,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only of this method; repeatable.", rich_help_panel=WHICH),
    ] = None,
    state: Annotated[
        list[State] | None,
        typer.Option(
            help="Only in this state; repeatable.", rich_help_panel=WHICH, case_sensitive=False
        ),
    ] = None,
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Only this workspace's folders, without asking the tracking store.",
            rich_help_panel=WHICH,
        ),
    ] = False,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="A column, best, score or a metric to sort by; with - before it descending.",
        ),
    ] = "run",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Show only so many runs, the first ones.", show_default=False),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the table until Ctrl-C.")] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Every run: state, progress and scores.

    These are the workspace's folders, and what other machines track in the same store.
    """
    from workbench.runs.listing import RunFilter, find_rows, sort_rows
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    chosen = RunFilter(
        experiment or (),
        variant or (),
        parse_seeds(seed, ()),
        teacher or (),
        method or (),
        [name.upper() for name in state or ()],
    )

    def look(tell: Callable[[str], None]) -> list[dict[str, Any]]:
        rows = find_rows(place, tracking_uri, chosen, tell, local=local)
        return sort_rows(rows, sort)[:limit]

    if watch:
        if json_output:
            raise RequestError("--watch shows a table: drop --json.")
        _watch(look, place)
        return
    rows = look(say)
    if json_output:
        print_json(rows)
        return
    print_table(*_table(rows))
    if not rows:
        say("No run here, nor in the store, is like that; `workbench runs list` shows all.")
    if rows:
        say("best: chosen from a run's evaluations, so it looks better than its weights are.")
    if any(row["folder"] is None for row in rows):
        say(
            "With a host: in the tracking store alone (other machines' runs, and removed ones); "
            "--local leaves them out."
        )


def _watch(look: Callable[[Callable[[str], None]], list[dict[str, Any]]], place: Workspace) -> None:
    """A table that is drawn anew until Ctrl-C."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    if not sys.stdout.isatty():
        raise RequestError("--watch needs a terminal: drop it.")
    with suppress(KeyboardInterrupt), Live(console=Console(), auto_refresh=False) as live:
        while True:
            problems: list[str] = []
            columns, rows = _table(look(problems.append))
            foot = [f"{time.strftime('%H:%M:%S')}  {place.root}  (Ctrl-C ends)", *problems]
            live.update(Group(table_of(columns, rows), *map(Text, foot)), refresh=True)
            time.sleep(_REFRESH_SECONDS)


def _table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    from workbench.metrics import title_of

    judged = {row["primary_metric"] for row in rows if row["primary_metric"]}
    shared = judged.pop() if len(judged) == 1 else None  # one name for all, or one a run
    title = title_of(shared) if shared else "score"
    elsewhere = any(row["folder"] is None for row in rows)
    columns = ["run", "state", *(["host"] * elsewhere), "kimg", title, f"best {title}"]
    cells = []
    for row in rows:
        host = [row["host"] or "-" if row["folder"] is None else "here"] * elsewhere
        cells.append([row["run"], row["state"], *host, f"{row['kimg']:g}", *_scores(row, shared)])
    return columns, cells


def _scores(row: dict[str, Any], shared: str | None) -> tuple[str, str]:
    """Last and best of what judges a run, with its name where runs differ in it."""
    from workbench.metrics import title_of

    name = "" if shared or row["primary_metric"] is None else f" {title_of(row['primary_metric'])}"
    last, best = ("-" if row[key] is None else f"{row[key]:.2f}{name}" for key in ("score", "best"))
    return last, best
