"""Options and output that every command shares."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

PLACES = "Where things are"
OUTPUT = "Output"

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        help="Folder of teachers, runs and tracking store (default: ./.workbench).",
        envvar="WORKBENCH_WORKSPACE",
        show_default=False,
        rich_help_panel=PLACES,
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking-uri",
        help="MLflow store (default: SQLite in the workspace).",
        envvar="MLFLOW_TRACKING_URI",
        show_default=False,
        rich_help_panel=PLACES,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON document on stdout, everything else on stderr.",
        rich_help_panel=OUTPUT,
    ),
]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeatable."),
]
TeacherOption = Annotated[str | None, typer.Option(help="Name, folder or hub id.")]
RecipeOption = Annotated[
    str | None, typer.Option(help="Recipe of the settings (default: the teacher's own).")
]
SeedsOption = Annotated[
    str | None,
    typer.Option(
        "--seeds",
        "--seed",
        metavar="0,1,2",
        help="Random seeds, one run each (default: 0).",
        show_default=False,
    ),
]


def parse_seeds(text: str | None, default: tuple[int, ...] = (0,)) -> tuple[int, ...]:
    """Distinct seeds in the order given.

    Raises:
        RequestError: not a list of whole numbers from 0.
    """
    if text is None:
        return default
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise RequestError(f"--seeds takes whole numbers as in 0,1,2 (got {text!r}).") from None
    if min(seeds) < 0 or max(seeds) >= 2**63:
        raise RequestError(f"A seed is a whole number from 0 to 2^63 - 1 (got {text!r}).")
    return seeds


def with_selectors(
    assignments: list[str] | None, teacher: str | None, recipe: str | None = None
) -> list[str]:
    """The person's changes as assignments.

    Raises:
        RequestError: a key that is given both as an option and by ``--set``.
    """
    changes = list(assignments or [])
    given = [text.partition("=")[0].strip() for text in changes]
    options = {"teacher": teacher, "recipe": recipe}
    for key, value in options.items():
        if value is not None:
            if key in given:
                raise RequestError(
                    f"Two sources for one value: --{key} {value} and --set {key}=...; drop one."
                )
            changes.append(f"{key}={value}")
    return changes


def duration(seconds: float) -> str:
    """A time span as people read it: 42 s, 3 min 05 s, 2 h 07 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def own_command() -> str:
    """How a person called this program, so that a command to copy works as it is."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "workbench" and called.exists() else "workbench"


def print_error(message: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"Error: {message}\n")


def print_json(value: Any) -> None:
    """The one JSON document of a command."""
    sys.stdout.write(json.dumps(value, indent=1, default=str) + "\n")


def say(message: str) -> None:
    """A line for people, on stderr: stdout belongs to results."""
    sys.stderr.write(message + "\n")


_FILE_COLUMNS = 160


def print_table(columns: list[str], rows: list[list[str]], title: str = "") -> None:
    """A table on stdout; numbers to the right."""
    from rich.console import Console

    table = table_of(columns, rows, title)
    console = Console(soft_wrap=not sys.stdout.isatty())
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        # A file has no width of its own: rich would take 80 columns and break words.
        natural = console.measure(table, options=console.options.update(max_width=_FILE_COLUMNS))
        console.width = max(console.width, natural.maximum)
    console.print(table)


def table_of(columns: list[str], rows: list[list[str]], title: str = "") -> Table:
    """Texts as a table; numbers to the right."""
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _is_number(text: str) -> bool:
    try:
        float(text.rstrip("%"))
    except ValueError:
        return text in ("", "-")
    return True
