"""workbench export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import print_json, say
from workbench.cli.options import OUTPUT, JsonOption, Precision, WorkspaceOption


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench export quickstart my-student")(export)


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="A run by the beginning of its name; RUN@KIMG for one of its checkpoints."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    precision: Annotated[
        Precision,
        typer.Option(help="Precision of the weights in the files.", rich_help_panel=OUTPUT),
    ] = "fp32",
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Prompt of the check and of the model card's sample.",
            show_default="the run's first",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            help="Compare the pipeline's images with workbench's before writing.",
            rich_help_panel=OUTPUT,
        ),
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

    request = ExportRequest(run, folder, precision, prompt, check)
    done = export_student(open_workspace(workspace, create=False), request)
    if json_output:
        difference = None if done.check is None else done.check.difference
        record = done.record.model_dump(mode="json")
        print_json({"folder": str(folder), "difference": difference, "student": record})
        return
    if done.check is not None:
        say(f"Stock images differ by at most {done.check.difference:.1g} from workbench's.")
    typer.echo(folder)
