"""Rows of images with captions on the left and prompts above, as a figure for a page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from workbench.evaluation.grids import check_grid, to_pixels, wrap_words
from workbench.plotting.style import TEXT_WIDTH, new_figure, paper_style, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GAP = 0.04
"""Between images, in inches, as all lengths here."""

_CAPTION, _PROMPT = 8.0, 7.0  # points
_LINE = 0.125


@dataclass(frozen=True)
class ImageRows:
    """A figure of images, and where its rows stand, in fractions of it.

    Attributes:
        middles: caption to the middle of its row.
        left: where the images begin.
        right: where they end.
        top: where the first row begins.
    """

    figure: Figure
    middles: Mapping[str, float]
    left: float
    right: float
    top: float


def image_rows(
    rows: Mapping[str, NDArray[Any]],
    prompts: Sequence[str] = (),
    *,
    width: float = TEXT_WIDTH,
    interpolation: str = "nearest",
    beside: float = 0.0,
) -> ImageRows:
    """Draw rows captioned by model, columns by prompt.

    Args:
        rows: caption to images (columns, 3, H, W) in [0, 1].
        prompts: one for each column, or none.
        width: of the figure, in inches.
        interpolation: matplotlib's, for enlarging.
        beside: inches that stay free on the right.

    Raises:
        RequestError: rows of different lengths, or a number of prompts that is not theirs.
    """
    pixels = {caption: to_pixels(images) for caption, images in rows.items()}
    columns = check_grid({caption: len(images) for caption, images in pixels.items()}, prompts)
    captions = {row: _caption(row) for row in rows}
    lines = [line for text in captions.values() for line in text.split("\n")]
    left = 0.11 + max(_points(line, _CAPTION) for line in lines) / 72
    cell = (width - left - beside) / columns - GAP
    headers = [
        wrap_words(prompt, 72 * (cell + 0.1 * GAP), lambda part: _points(part, _PROMPT))
        for prompt in prompts
    ]
    top = _LINE * max((len(header) for header in headers), default=0) + 0.06
    heights = [cell * images.shape[1] / images.shape[2] for images in pixels.values()]
    height = top + sum(heights) + GAP * len(heights)
    with paper_style():
        figure = new_figure(width, height)
        figure.set_layout_engine("none")
        y, middles = height - top, {}
        for (caption, images), tall in zip(pixels.items(), heights, strict=True):
            y -= tall
            for column, image in enumerate(images):
                x = left + column * (cell + GAP)
                axes = figure.add_axes((x / width, y / height, cell / width, tall / height))
                axes.imshow(image, interpolation=interpolation, aspect="auto")
                axes.set_axis_off()
            middles[caption] = (y + tall / 2) / height
            place = ((left - 0.06) / width, middles[caption], captions[caption])
            figure.text(*place, ha="right", va="center", fontsize=points(_CAPTION))
            y -= GAP
        bottom = (height - top + 0.04) / height
        for column, header in enumerate(headers):
            x = (left + column * (cell + GAP) + cell / 2) / width
            text = "\n".join(header)
            figure.text(x, bottom, text, ha="center", va="bottom", fontsize=points(_PROMPT))
    end = left + columns * (cell + GAP) - GAP
    return ImageRows(figure, middles, left / width, end / width, bottom)


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
