"""workbench export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import JsonOption, WorkspaceOption, print_json, say

WHAT = "What to write"


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench export quickstart my-student")(export)


def export(
    run: Annotated[
        str, typer.Argument(help="Run (any unambiguous beginning; RUN@KIMG for a checkpoint).")
    ],
    folder: Annotated[Path, typer.Argument(help="New or empty folder.")],
    dtype: Annotated[
        str, typer.Option(help="Of the weights: fp32 or bf16.", rich_help_panel=WHAT)
    ] = "fp32",
    prompt: Annotated[
        str | None,
        typer.Option(
            help="Of the check and the card's sample (default: the run's first).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(help="Compare the pipeline's images before writing.", rich_help_panel=WHAT),
    ] = True,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a run's student as a pipeline that diffusers opens without workbench.

    README.md there begins with a whole program: pipe(PROMPT) draws with the student's own steps,
    size and guidance. sample, evaluate and --set start=FOLDER take the folder too.
    """
    from workbench.students.export import ExportRequest, export_student
    from workbench.workspace import open_workspace

    request = ExportRequest(run, folder, dtype, prompt, check)
    done = export_student(open_workspace(workspace), request)
    if json_output:
        difference = None if done.check is None else done.check.difference
        record = done.record.model_dump(mode="json")
        print_json({"folder": str(folder), "difference": difference, "student": record})
        return
    if done.check is not None:
        say(f"Stock images differ by at most {done.check.difference:.1g} from workbench's.")
    typer.echo(folder)
