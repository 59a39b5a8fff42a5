"""workbench sample."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.common import JsonOption, WorkspaceOption, print_json, say

WHAT = "What to draw"


def register(app: typer.Typer) -> None:
    app.command(
        epilog='Example:  workbench sample quickstart --prompt "the digit 7" --steps 4 --out 7.png'
    )(sample)


def sample(
    model: Annotated[str, typer.Argument(help="Run (any unambiguous beginning) or teacher.")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable (default: one per digit).", rich_help_panel=WHAT),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="(default: the student's K, or 50)", rich_help_panel=WHAT),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.", rich_help_panel=WHAT)] = 0,
    cfg_scale: Annotated[
        float, typer.Option(help="Guidance of a teacher; 1 = off.", rich_help_panel=WHAT)
    ] = 1.0,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("samples.png"),
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw samples of a run's student, or of a teacher, into one captioned PNG."""
    from workbench.cli.building import ensure_with_bar
    from workbench.evaluation import image_grid
    from workbench.runs import load_model, sample_model
    from workbench.teachers.digits import one_prompt_per_digit
    from workbench.training.config import evaluation_settings
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    ensure_with_bar(model, place.teachers)
    loaded = load_model(place, model)
    count = steps or loaded.default_steps[0]
    prompts = prompt or one_prompt_per_digit()
    settings = evaluation_settings({"seed": seed, "cfg_scale": cfg_scale})
    images = sample_model(loaded, prompts, count, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    image_grid({f"{count} steps": images}, prompts).save(out)
    if json_output:
        print_json({"model": loaded.name, "steps": count, "prompts": prompts, "file": str(out)})
    else:
        say(f"{len(prompts)} images of {loaded.name}, {count} steps:")
        typer.echo(out)
