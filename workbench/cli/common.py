"""Output that every command shares; options are in `options`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table


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


def confirm_deletion(yes: bool, what: str) -> None:
    """Ask before something is deleted, unless ``yes``.

    Raises:
        RequestError: nobody can be asked.
        typer.Abort: the answer was no.
    """
    if yes:
        return
    import typer

    if not sys.stdin.isatty():
        raise RequestError(f"Nobody can be asked here: add --yes to delete {what}.")
    typer.confirm("Delete for good?", abort=True, err=True)
