"""workbench sample."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import JsonOption, WorkspaceOption, print_json, say
from workbench.errors import RequestError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.students.models import Drawing, LoadedModel

WHAT = "What to draw"
HOW = "How to keep it"


def register(app: typer.Typer) -> None:
    app.command(
        epilog='Example:  workbench sample quickstart --prompt "a red kite" --out kite.png'
    )(sample)


ModelArgument = Annotated[
    str,
    typer.Argument(
        help="Run (any unambiguous beginning; RUN@KIMG for a checkpoint), exported folder or "
        "teacher."
    ),
]
PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Repeatable (default: those that the model's run or recipe shows).",
        rich_help_panel=WHAT,
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(help="File of prompts: .txt, .jsonl or .parquet.", rich_help_panel=WHAT),
]
StepsOption = Annotated[
    int | None,
    typer.Option(min=1, help="(default: the student's K, or 50)", rich_help_panel=WHAT),
]
SeedOption = Annotated[
    int, typer.Option(min=0, help="Image i is drawn from SEED + i.", rich_help_panel=WHAT)
]
GuidanceOption = Annotated[
    float, typer.Option(help="Guidance of a teacher; 1 = off.", rich_help_panel=WHAT)
]
NoiseOption = Annotated[
    str | None,
    typer.Option(
        help="fresh, fixed or ddim instead of the student's own, to explore.",
        rich_help_panel=WHAT,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="PNG to write, or with --files a folder (default: samples.png, samples).",
        rich_help_panel=HOW,
    ),
]
BatchOption = Annotated[
    int, typer.Option(min=1, help="Images at a time; changes no image.", rich_help_panel=HOW)
]
GridOption = Annotated[
    bool,
    typer.Option(
        "--grid/--files", help="One captioned PNG, or a file per image.", rich_help_panel=HOW
    ),
]
FormatOption = Annotated[
    str,
    typer.Option("--format", help="Of single files: png, or npy (float32).", rich_help_panel=HOW),
]


def sample(
    model: ModelArgument,
    prompt: PromptOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    cfg_scale: GuidanceOption = 1.0,
    out: OutOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
    prompts: PromptsOption = None,
    noise: NoiseOption = None,
    batch_size: BatchOption = 8,
    grid: GridOption = True,
    file_type: FormatOption = "png",
) -> None:
    """Draw samples of a student or a teacher; a PNG's metadata tell how it was made.

    An image depends on its prompt and its seed, not on its batch. An exported student's images
    are the ones that the exported pipeline draws on a CPU after torch.manual_seed(seed).
    """
    from workbench.cli.building import ensure_with_bar
    from workbench.students.models import Drawing, load_model, shown_prompts
    from workbench.students.pictures import WRITERS, checked_prompts
    from workbench.students.sampling import sample_model
    from workbench.workspace import open_workspace

    if file_type not in WRITERS:
        raise unknown_name("file format", file_type, WRITERS)
    if grid and file_type != "png":
        raise RequestError(f"--format {file_type} is of single files: add --files.")
    given = _prompts(prompt, prompts)
    place = open_workspace(workspace)
    ensure_with_bar(model, place.teachers)
    loaded = load_model(place, model)
    texts = checked_prompts(given if given is not None else shown_prompts(loaded))
    count = steps or loaded.default_steps[0]
    drawing = Drawing(texts, count, seed, noise, cfg_scale, batch_size)
    images = sample_model(loaded, drawing)
    if noise not in (None, loaded.noise):
        say(f"{loaded.name} was trained with {loaded.noise} noise, not with {noise}.")
    files = _save(images, loaded, drawing, out, None if grid else file_type)
    if json_output:
        result = {"model": loaded.name, "steps": count, "seed": seed, "prompts": texts}
        places = {"file": str(files[0])} if grid else {"files": [str(file) for file in files]}
        print_json({**result, **places})
    else:
        say(f"{len(texts)} images of {loaded.name}, {count} steps:")
        for file in files:
            typer.echo(file)


def _prompts(given: list[str] | None, file: Path | None) -> list[str] | None:
    from workbench.data.prompts import PromptsConfig, read_prompts

    if file is not None and not file.suffix:
        raise RequestError(f"--prompts {file}: expected a .txt, .jsonl or .parquet file.")
    read = read_prompts(PromptsConfig(source=str(file))).prompts if file is not None else ()
    if given is None and file is None:
        return None
    return [*(given or ()), *read]


def _save(
    images: Tensor, model: LoadedModel, drawing: Drawing, out: Path | None, file_type: str | None
) -> list[Path]:
    from workbench.students.pictures import facts, save_files, save_grid

    made = facts(model, drawing, shlex.join(["workbench", *sys.argv[1:]]))
    if file_type is not None:
        return save_files(images, drawing, made, out or Path("samples"), file_type)
    path = out or Path("samples.png")
    save_grid(images, drawing, made, path)
    return [path]
