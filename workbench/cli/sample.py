"""workbench sample."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.cli.common import print_json, say
from workbench.cli.options import (
    OUTPUT,
    SAMPLES,
    BatchSizeOption,
    CfgScaleOption,
    JsonOption,
    ModelArgument,
    Noise,
    PromptOption,
    PromptsOption,
    SeedOption,
    StepsOption,
    WorkspaceOption,
)
from workbench.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.students.models import Drawing, LoadedModel


def register(app: typer.Typer) -> None:
    app.command(
        epilog='Example:  workbench sample quickstart --prompt "a red kite" --out kite.png'
    )(sample)


NoiseOption = Annotated[
    Noise | None,
    typer.Option(
        help="Noise of a student's later steps, to explore another than it was trained with.",
        show_default="the student's own",
        rich_help_panel=SAMPLES,
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="PNG to write, or with --files a folder.",
        show_default="samples.png, samples",
        rich_help_panel=OUTPUT,
    ),
]
GridOption = Annotated[
    bool,
    typer.Option(
        "--grid/--files",
        help="Write one captioned PNG, or a file for each image.",
        rich_help_panel=OUTPUT,
    ),
]
FormatOption = Annotated[
    Literal["png", "npy"],
    typer.Option(
        "--format",
        help="Format of single files; npy holds float32 in [0, 1].",
        rich_help_panel=OUTPUT,
    ),
]


def sample(
    model: ModelArgument,
    prompt: PromptOption = None,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    cfg_scale: CfgScaleOption = 1.0,
    out: OutOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
    prompts: PromptsOption = None,
    noise: NoiseOption = None,
    batch_size: BatchSizeOption = 8,
    grid: GridOption = True,
    file_format: FormatOption = "png",
) -> None:
    """Draw samples of a student or a teacher; a PNG's metadata tell how it was made.

    An image depends on its prompt and its seed, not on its batch. An exported student's images
    are the ones that the exported pipeline draws on a CPU after torch.manual_seed(seed).
    """
    from workbench.cli.building import ensure_with_bar
    from workbench.students.models import Drawing, load_model, shown_prompts
    from workbench.students.pictures import checked_prompts
    from workbench.students.sampling import sample_model
    from workbench.workspace import open_workspace

    if grid and file_format != "png":
        raise RequestError(f"--format {file_format} is for single files: add --files.")
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
    files = _save(images, loaded, drawing, out, None if grid else file_format)
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
    images: Tensor, model: LoadedModel, drawing: Drawing, out: Path | None, file_format: str | None
) -> list[Path]:
    from workbench.students.pictures import facts, save_files, save_grid

    made = facts(model, drawing, shlex.join(["workbench", *sys.argv[1:]]))
    if file_format is not None:
        return save_files(images, drawing, made, out or Path("samples"), file_format)
    path = out or Path("samples.png")
    save_grid(images, drawing, made, path)
    return [path]
