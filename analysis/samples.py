"""Sample grid: the same prompts by several models, one row a model.

    python analysis/samples.py teacher=teacher.npz student=student.npz --out figures/samples

Each file holds ``images`` (B, 3, H, W) in [0, 1]; the first also ``prompts`` (B,).
"""

from __future__ import annotations

import argparse
import textwrap
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RequestError
from workbench.evaluation.grids import check_grid, to_pixels, wrap_words
from workbench.plotting import TEXT_WIDTH, Drawing, Script, new_figure, paper_style, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    rows: Mapping[str, NDArray[Any]],
    prompts: Sequence[str] = (),
    *,
    width: float = TEXT_WIDTH,
    interpolation: str = "nearest",
) -> Figure:
    """Grid of images: rows captioned by model, columns by prompt.

    Args:
        rows: caption to images (columns, 3, H, W) in [0, 1].
        prompts: one for each column, or none.
        width: of the figure, in inches.
        interpolation: matplotlib's, for enlarging.
    """
    pixels = {caption: to_pixels(images) for caption, images in rows.items()}
    columns = check_grid({caption: len(images) for caption, images in pixels.items()}, prompts)
    captions = {row: _caption(row) for row in rows}
    widest = max(_points(line, 8) for text in captions.values() for line in text.split("\n"))
    left = 0.1 + widest / 72
    gap = 0.04
    cell = (width - left) / columns - gap
    headers = [
        wrap_words(prompt, 72 * (cell + 0.5 * gap), lambda part: _points(part, 7))
        for prompt in prompts
    ]
    top = 0.125 * max((len(lines) for lines in headers), default=0) + 0.06
    heights = [cell * images.shape[1] / images.shape[2] for images in pixels.values()]
    height = top + sum(heights) + gap * len(heights)
    with paper_style():
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        y = height - top
        for (caption, images), tall in zip(pixels.items(), heights, strict=True):
            y -= tall
            for column, image in enumerate(images):
                x = left + column * (cell + gap)
                axes = figure.add_axes((x / width, y / height, cell / width, tall / height))
                axes.imshow(image, interpolation=interpolation, aspect="auto")
                axes.set_axis_off()
            middle = (y + tall / 2) / height
            text = captions[caption]
            side = (left - 0.06) / width
            figure.text(side, middle, text, ha="right", va="center", fontsize=points(8))
            y -= gap
        for column, lines in enumerate(headers):
            x = (left + column * (cell + gap) + cell / 2) / width
            bottom = (height - top + 0.04) / height
            text = "\n".join(lines)
            figure.text(x, bottom, text, ha="center", va="bottom", fontsize=points(7))
    return figure


def _caption(row: str) -> str:
    """A row's caption in short lines, broken after commas first: model, then its steps."""
    parts = row.replace(", ", ",\n").split("\n")
    return "\n".join(textwrap.fill(part, 16, break_long_words=False) for part in parts)


def _points(text: str, size: float) -> float:
    """Width in points of text of a size in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans")
    return float(TextPath((0, 0), text, size=size, prop=font).get_extents().x1)


def read_row(argument: str) -> tuple[str, NDArray[Any], list[str]]:
    """``caption=file.npz`` to caption, images and prompts.

    Raises:
        RequestError: no caption, no such file, or no images in it.
    """
    caption, separator, file = argument.partition("=")
    if not separator or not Path(file).is_file():
        raise RequestError(f"Expected CAPTION=FILE.npz with an existing file, not {argument!r}.")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            prompts = [str(p) for p in arrays["prompts"]] if "prompts" in arrays else []
            return caption, arrays["images"], prompts
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise RequestError(f"{file} holds no array 'images': {error}.") from error


def draw(options: argparse.Namespace) -> Drawing:
    rows = [read_row(argument) for argument in options.rows]
    return Drawing({"": plot({caption: images for caption, images, _ in rows}, rows[0][2])})


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("rows", nargs="+", metavar="CAPTION=FILE.npz")


SCRIPT = Script("samples", __doc__, draw, add_options=add_options)
main = SCRIPT.main


if __name__ == "__main__":
    raise SystemExit(main())
