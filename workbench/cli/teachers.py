"""workbench teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.common import print_json, print_table
from workbench.cli.options import (
    OUTPUT,
    CfgScaleOption,
    JsonOption,
    PromptOption,
    SeedOption,
    StepsOption,
    WorkspaceOption,
)
from workbench.cli.sample import sample as draw_samples

DEFAULT = "the teacher of runs that name none"

app = typer.Typer(name="teachers", no_args_is_help=True, help="List, build and sample teachers.")


@app.command("list", epilog="Example:  workbench teachers list")
def list_(workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """The teachers known by name; any folder or hub id (owner/name@revision) works too.

    Memory is for full copies in bf16-mixed with gradient checkpointing, one sample at a time, on
    one device; doctor --teacher tells it for any settings.
    """
    from workbench.teachers.catalog import teacher_overview
    from workbench.workspace import open_workspace

    rows = teacher_overview(open_workspace(workspace, create=False).teachers)
    if json_output:
        print_json(rows)
        return
    print_table(
        ["name", "size", "px", "latent", "gated", "ready", "memory", "what it is"],
        [
            [
                str(row["name"]),
                _human_count(row["parameters"]),
                str(row["resolution"]),
                str(row["latent"]),
                "yes" if row["gated"] else "",
                "yes" if row["ready"] else "",
                _gib(row["distil_bytes"]),
                # Wide enough already: where a built one lies is in --json.
                str(row["source"] if row["distil_bytes"] else row["description"]),
            ]
            for row in rows
        ],
    )


def _human_count(number: Any) -> str:
    """0.59 B, 0.26 M."""
    return f"{number / 1e9:.2f} B" if number >= 1e8 else f"{number / 1e6:.2f} M"


def _gib(size: Any) -> str:
    return "-" if size is None else f"{size / 2**30:.0f} GiB"


@app.command(epilog="Example:  workbench teachers build NAME")
def build(
    name: Annotated[
        str | None,
        typer.Argument(help="An embedded teacher.", show_default=DEFAULT),
    ] = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Pretrain an embedded teacher from nothing, unless the workspace has built it before.

    Teachers that come trained with the package need no building; one that is built all the same
    is used instead.
    """
    from workbench.cli.building import building_bar
    from workbench.teachers import build_teacher
    from workbench.teachers.catalog import default_teacher
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    name = name or default_teacher()
    with building_bar() as show:
        folder = build_teacher(name, place.teachers, show)
    if json_output:
        print_json({"teacher": name, "folder": str(folder)})
    else:
        typer.echo(folder)


@app.command(epilog="Example:  workbench teachers sample NAME --steps 20 --out teacher.png")
def sample(
    teacher: Annotated[
        str | None,
        typer.Argument(help="Name, folder or hub id of the teacher.", show_default=DEFAULT),
    ] = None,
    prompt: PromptOption = None,
    steps: StepsOption = 50,
    seed: SeedOption = 0,
    cfg_scale: CfgScaleOption = 1.0,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="PNG to write.", rich_help_panel=OUTPUT)
    ] = Path("teacher.png"),
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw samples of a teacher into one captioned PNG."""
    from workbench.teachers.catalog import default_teacher

    draw_samples(
        teacher or default_teacher(), prompt, steps, seed, cfg_scale, out, workspace, json_output
    )
