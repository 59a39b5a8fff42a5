"""Image files below a folder, and the square that a network sees of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def list_images(folder: Path) -> list[Path]:
    """The image files below a folder, sorted by their place in it.

    Raises:
        RequestError: no folder, or no image in it.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}.")
    found = (f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    files = sorted(found, key=lambda file: file.relative_to(folder).as_posix())
    if not files:
        raise RequestError(f"{folder} holds no images ({', '.join(SUFFIXES)}).")
    return files


def centre_square(picture: Image.Image, size: int) -> Image.Image:
    """The largest square in the middle, resized to ``size`` pixels (bicubic, antialiased, bytes).

    A picture of that size already is left as it is.
    """
    from PIL import Image

    width, height = picture.size
    if (width, height) == (size, size):
        return picture
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge))
    return square.resize((size, size), Image.Resampling.BICUBIC)
