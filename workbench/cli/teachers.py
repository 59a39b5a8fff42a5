"""workbench teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import (
    JsonOption,
    WorkspaceOption,
    print_json,
    print_table,
    say,
)

app = typer.Typer(name="teachers", no_args_is_help=True, help="List, build and sample teachers.")


@app.command("list", epilog="Example:  workbench teachers list")
def list_(workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """The teachers known by name; any folder or hub id of a SANA pipeline works too."""
    from workbench.teachers import teacher_overview
    from workbench.workspace import open_workspace

    rows = teacher_overview(open_workspace(workspace).teachers)
    if json_output:
        print_json(rows)
        return
    columns = list(rows[0])
    print_table(columns, [[str(row[column]) for column in columns] for row in rows])


@app.command(epilog="Example:  workbench teachers build digits-sana")
def build(
    name: Annotated[str, typer.Argument(help="An embedded teacher.")] = "digits-sana",
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Pretrain an embedded teacher, unless its recipe has been built before."""
    from workbench.cli.building import build_with_bar
    from workbench.workspace import open_workspace

    folder = build_with_bar(name, open_workspace(workspace).teachers)
    if json_output:
        print_json({"teacher": name, "folder": str(folder)})
    else:
        typer.echo(folder)


@app.command(epilog="Example:  workbench teachers sample digits-sana --steps 20 --out teacher.png")
def sample(
    teacher: Annotated[str, typer.Argument(help="Name, folder or hub id.")] = "digits-sana",
    prompt: Annotated[
        list[str] | None, typer.Option(help="Repeatable [default: one per digit].")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Euler steps.")] = 50,
    cfg_scale: Annotated[float, typer.Option(help="Guidance; 1 = off.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("teacher.png"),
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw samples of a teacher into one PNG."""
    from workbench.cli.building import ensure_with_bar
    from workbench.runs import sample_images, save_grid
    from workbench.training.config import EvaluationConfig
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    ensure_with_bar(teacher, place.teachers)
    settings = EvaluationConfig(seed=seed, cfg_scale=cfg_scale)
    images = sample_images(place, teacher, prompt or [], settings, steps)
    save_grid(images, out)
    if json_output:
        print_json({"teacher": teacher, "steps": steps, "file": str(out)})
    else:
        say(f"{len(images.prompts)} images, {steps} Euler steps:")
        typer.echo(out)
