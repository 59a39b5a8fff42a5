"""Images as files that tell how they were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from workbench import __version__
from workbench.errors import RequestError
from workbench.evaluation import image_grid
from workbench.evaluation.grids import to_pixels
from workbench.students.models import Drawing, LoadedModel

if TYPE_CHECKING:
    from PIL import Image

Facts = Mapping[str, str]
"""Key -> text, as PNG stores it."""


def facts(model: LoadedModel, drawing: Drawing, command: str) -> dict[str, str]:
    """How images were made, all but the prompts."""
    teacher = model.taught_by
    return {
        "workbench": __version__,
        "model": model.name,
        "teacher": f"{teacher.name} ({teacher.fingerprint})",
        "weights": model.weights,
        "steps": str(drawing.steps),
        "seed": str(drawing.seed),
        "command": command,
        **model.facts(drawing),
    }


def save_grid(images: Tensor, drawing: Drawing, made: Facts, path: Path) -> None:
    """All images (B, 3, H, W) in one captioned PNG."""
    grid = image_grid({f"{drawing.steps} steps": images}, drawing.prompts)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_png(grid, {**made, "prompt": "\n".join(drawing.prompts)}, path)


def save_files(
    images: Tensor, drawing: Drawing, made: Facts, folder: Path, file_type: str
) -> list[Path]:
    """A file for each image (3, H, W), named by its index and seed.

    ``png`` rounds to bytes and tells how it was made; ``npy`` keeps float32 (H, W, 3) in [0, 1],
    which is what a stock pipeline returns for ``output_type="np"``.

    Raises:
        RequestError: ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"--out {folder} is a file; with --files it must be a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, (image, prompt) in enumerate(zip(images, drawing.prompts, strict=True)):
        seed = drawing.seed + index
        path = folder / f"{index:04d}-seed{seed}.{file_type}"
        WRITERS[file_type](image, {**made, "prompt": prompt, "seed": str(seed)}, path)
        paths.append(path)
    return paths


def _write_png(image: Tensor, made: Facts, path: Path) -> None:
    from PIL import Image

    _save_png(Image.fromarray(to_pixels(image[None])[0]), made, path)


def _write_npy(image: Tensor, made: Facts, path: Path) -> None:
    np.save(path, image.permute(1, 2, 0).numpy())


WRITERS: Mapping[str, Callable[[Tensor, Facts, Path], None]] = {
    "png": _write_png,
    "npy": _write_npy,
}
"""File type -> how one image (3, H, W) is written."""


def _save_png(image: Image.Image, made: Facts, path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, text in made.items():
        info.add_text(key, text)
    image.save(path, format="PNG", pnginfo=info)


def checked_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts themselves.

    Raises:
        RequestError: none, or one that is empty.
    """
    if not prompts:
        raise RequestError("There is nothing to draw: no prompts.")
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise RequestError(f"Prompt {number} of {len(prompts)} is empty.")
    return list(prompts)
