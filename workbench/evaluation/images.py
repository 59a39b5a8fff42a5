"""Image files as samples, and the preparation that real and generated images share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from workbench.data.images import center_square
from workbench.errors import RequestError
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.grids import to_pixels

if TYPE_CHECKING:
    from PIL import Image


_DEEP_MODES = "IF"
"""First letters of PIL's modes of 16 and 32 bits: I;16, I, F."""


@dataclass(frozen=True)
class Preparation:
    """See :func:`center_square`."""

    size: int

    @property
    def fingerprint(self) -> str:
        return f"centre crop, pil-bicubic to {self.size}"

    def of_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to (B, 3, size, size), through bytes unless they fit."""
        from PIL import Image

        if images.shape[2:] == (self.size, self.size):
            return images
        return _stacked([center_square(Image.fromarray(p), self.size) for p in to_pixels(images)])


class Prepared(FeatureExtractor):
    """An extractor that sees prepared images: what a reference's statistics were made of.

    Args:
        prepare: equal for all extractors of a reference, so that it may remember its last answer.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        preparation: Preparation,
        prepare: Callable[[Tensor], Tensor],
    ) -> None:
        self._extractor, self._prepare = extractor, prepare
        self.name, self.dimension = extractor.name, extractor.dimension
        self.fingerprint = f"{extractor.fingerprint} after {preparation.fingerprint}"

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rows (B, D) of images (B, 3, H, W) in [0, 1] after preparation."""
        return self._extractor.extract(self._prepare(images), prompts)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """As the extractor's own."""
        self._extractor.check_prompts(prompts)


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
        picture = _open(file)
        if picture.mode[0] in _DEEP_MODES:  # PIL would cut them off at 255
            raise RequestError(f"{file} has more than 8 bits a channel: convert it to 8 bits.")
        try:
            picture = picture.convert("RGB")
        except (OSError, SyntaxError) as error:  # PIL calls a broken PNG a syntax error
            raise _unreadable(file, error) from error
        pictures.append(
            picture if preparation is None else center_square(picture, preparation.size)
        )
    return _stacked(pictures)


def _open(file: Path) -> Image.Image:
    from PIL import Image

    try:
        return Image.open(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> RequestError:
    return RequestError(f"{file} cannot be read as an image: {' '.join(str(error).split())}.")


def _stacked(pictures: Sequence[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / 255.0
