"""Sample grids: one row a model, one column a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_INK = (32, 32, 32)
_PAPER = (255, 255, 255)

CELL_SIZES = (96, 256)
"""Widths in pixels of an image in a picture: of small images, and of all others."""


class NotFiniteError(WorkbenchError):
    """Samples hold NaN or infinities, so that there is nothing to draw or to score."""


def to_pixels(images: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
    """Images (B, 3, H, W) in [0, 1] to bytes (B, H, W, 3), rounded to nearest.

    Raises:
        RequestError: another shape.
        NotFiniteError: values that are not finite.
    """
    values = images.detach().float().cpu().numpy() if isinstance(images, Tensor) else images
    if values.ndim != 4 or values.shape[1] != 3:
        raise RequestError(f"Images must have the shape (B, 3, H, W), not {tuple(values.shape)}.")
    if not np.isfinite(values).all():
        raise NotFiniteError("Images hold values that are not finite: they cannot be drawn.")
    pixels: NDArray[np.uint8] = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def image_grid(
    rows: Mapping[str, Tensor | NDArray[Any]],
    prompts: Sequence[str] = (),
    *,
    size: int | None = None,
    resample: str | None = None,
) -> Image.Image:
    """A picture of several models' images, row by row, with captions.

    Args:
        rows: caption to images (columns, 3, H, W) in [0, 1]; all rows equally long.
        prompts: a caption for every column, or none.
        size: width of one image in the picture, in pixels; its height keeps the proportions.
            None = the smallest of ``CELL_SIZES`` that the images fit in, or the largest.
        resample: ``nearest`` shows pixels as they are, ``lanczos`` smooths; None = nearest for
            images that are enlarged.

    Raises:
        RequestError: rows of different lengths or none, a number of prompts that is not the
            number of columns, or an unknown resampling.
        NotFiniteError: values that are not finite.
    """
    from PIL import Image, ImageDraw, ImageFont

    from workbench.errors import unknown_name

    filters = {"nearest": Image.Resampling.NEAREST, "lanczos": Image.Resampling.LANCZOS}
    if resample is not None and resample not in filters:
        raise unknown_name("resampling", resample, filters)
    pixels = {caption: to_pixels(images) for caption, images in rows.items()}
    columns = check_grid({caption: len(images) for caption, images in pixels.items()}, prompts)
    widest = max(images.shape[2] for images in pixels.values())
    size = size or next((each for each in CELL_SIZES if widest <= each), CELL_SIZES[-1])
    resample = resample or ("nearest" if widest <= size else "lanczos")

    font = ImageFont.load_default(max(11, round(0.15 * size)))
    gap, line = gap_of(size), round(1.25 * _extent("Ag", font)[1]) + 1
    headers = [wrap_words(p, size, lambda part: _extent(part, font)[0]) for p in prompts]
    top = gap + line * max((len(header) for header in headers), default=0) + gap
    left = 2 * gap + max(_extent(part, font)[0] for row in pixels for part in row.split("\n"))
    heights = {row: round(size * p.shape[1] / p.shape[2]) for row, p in pixels.items()}
    canvas = Image.new(
        "RGB",
        (left + columns * (size + gap), top + sum(height + gap for height in heights.values())),
        _PAPER,
    )
    pen = ImageDraw.Draw(canvas)
    for column, header in enumerate(headers):
        for number, text in enumerate(reversed(header)):
            x = left + column * (size + gap) + (size - _extent(text, font)[0]) / 2
            pen.text((x, top - gap - (number + 1) * line), text, _INK, font)
    y = top
    for row, images in pixels.items():
        lines = row.split("\n")
        for number, text in enumerate(lines):
            offset = (heights[row] - line * len(lines)) / 2 + number * line
            pen.text((left - gap - _extent(text, font)[0], y + offset), text, _INK, font)
        for column, image in enumerate(images):
            enlarged = Image.fromarray(image).resize((size, heights[row]), filters[resample])
            canvas.paste(enlarged, (left + column * (size + gap), y))
        y += heights[row] + gap
    return canvas


def gap_of(size: int) -> int:
    """Pixels between images of a width in a picture."""
    return max(2, size // 24)


def check_grid(lengths: Mapping[str, int], prompts: Sequence[str]) -> int:
    """The number of columns that all rows and the prompts agree on.

    Raises:
        RequestError: they disagree, or there is nothing.
    """
    columns = next(iter(lengths.values()), 0)
    if columns == 0 or set(lengths.values()) != {columns}:
        raise RequestError(f"A grid needs rows of equal length, at least 1, not {dict(lengths)}.")
    if prompts and len(prompts) != columns:
        raise RequestError(f"A grid of {columns} columns has {len(prompts)} prompts.")
    return columns


def _extent(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> tuple[int, int]:
    left, top, right, bottom = font.getbbox(text)
    return math.ceil(right - left), math.ceil(bottom - top)


def wrap_words(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Words in lines at most ``width`` wide; a longer word is shortened with an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        while measure(word) > width and len(word) > 2:
            word = word.rstrip("…")[:-1] + "…"
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and measure(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines
