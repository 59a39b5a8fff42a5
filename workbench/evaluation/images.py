"""Image files as samples, and the preparation that real and generated images share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation.grids import to_pixels
from workbench.evaluation.observers import Observer

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Preparation:
    """The largest square in the middle, resized to ``size`` pixels (bicubic, antialiased, bytes).

    An image of that size already is left as it is.
    """

    size: int

    @property
    def fingerprint(self) -> str:
        return f"centre crop, pil-bicubic to {self.size}"

    def of_picture(self, picture: Image.Image) -> Image.Image:
        """One picture, in RGB."""
        from PIL import Image

        width, height = picture.size
        if (width, height) == (self.size, self.size):
            return picture
        edge = min(width, height)
        left, top = (width - edge) // 2, (height - edge) // 2
        square = picture.crop((left, top, left + edge, top + edge))
        return square.resize((self.size, self.size), Image.Resampling.BICUBIC)

    def of_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to (B, 3, size, size), through bytes unless they fit."""
        from PIL import Image

        if images.shape[2:] == (self.size, self.size):
            return images
        return _stacked([self.of_picture(Image.fromarray(p)) for p in to_pixels(images)])


class Prepared:
    """An observer that sees prepared images: what a reference's statistics were made of.

    Args:
        prepare: equal for all observers of a reference, so that it may remember its last answer.
    """

    def __init__(
        self, observer: Observer, preparation: Preparation, prepare: Callable[[Tensor], Tensor]
    ) -> None:
        self._observer, self._prepare = observer, prepare
        self.name, self.dimension = observer.name, observer.dimension
        self.fingerprint = f"{observer.fingerprint} after {preparation.fingerprint}"

    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rows (B, D) of images (B, 3, H, W) in [0, 1] after preparation."""
        return self._observer.observe(self._prepare(images), prompts)


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


def hash_files(files: Sequence[Path]) -> str:
    """Sixteen hex digits of the names and contents of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(
                f"{file.name}\0{hashlib.file_digest(content, 'sha256').hexdigest()}\n".encode()
            )
    return digest.hexdigest()[:16]


def check_equal_sizes(files: Sequence[Path]) -> tuple[int, int]:
    """Width and height that all the images have.

    Raises:
        RequestError: unreadable, or of mixed sizes (names two).
    """
    first = _open(files[0]).size
    for file in files[1:]:
        size = _open(file).size
        if size != first:
            raise RequestError(
                f"The images are of mixed sizes: {files[0]} is {first[0]} x {first[1]}, {file} is "
                f"{size[0]} x {size[1]}. Samples of one model have one size."
            )
    return first


def read_images(files: Sequence[Path], preparation: Preparation | None = None) -> Tensor:
    """Images (B, 3, H, W), float32 in [0, 1].

    Raises:
        RequestError: a file cannot be read as an image.
    """
    pictures = []
    for file in files:
        try:
            picture = _open(file).convert("RGB")
        except OSError as error:
            raise _unreadable(file, error) from error
        pictures.append(picture if preparation is None else preparation.of_picture(picture))
    return _stacked(pictures)


def _open(file: Path) -> Image.Image:
    from PIL import Image

    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> RequestError:
    return RequestError(f"{file} cannot be read as an image: {' '.join(str(error).split())}.")


def _stacked(pictures: Sequence[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 255.0
