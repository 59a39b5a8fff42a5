"""Images by number, cropped to squares, with the hash of their source."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.data.labeled import LabeledImages
from workbench.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

DECODING = 2
"""Increased whenever an image file decodes to other pixels than before."""


class BadImageError(Exception):
    """An image that cannot be used; the message says why."""


@dataclass(frozen=True)
class LoadedImage:
    """One image, float32 (3, size, size) in [0, 1], and the SHA-256 of what it was made from."""

    pixels: Tensor
    digest: bytes


class PairImages(ABC):
    """Images in their order; small, and travels between processes.

    Attributes:
        identity: short hash of which images these are, known without reading them all.
    """

    identity: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Where an image is stored, for people."""

    @abstractmethod
    def load(self, index: int, size: int) -> LoadedImage:
        """The largest square in the middle at ``size`` pixels, RGB; from several threads at once.

        Raises:
            BadImageError: undecodable, or smaller than ``size``.
        """


class StoredImages(PairImages):
    """Images that are stored in an image format."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """An image's file.

        Raises:
            OSError: it cannot be read.
        """

    def load(self, index: int, size: int) -> LoadedImage:
        try:
            content = self.content(index)
        except OSError as error:
            raise BadImageError(f"cannot be read: {error}") from error
        return LoadedImage(decode_square(content, size), hashlib.sha256(content).digest())


class FileSpan(NamedTuple):
    """Bytes of a file: all of it, or the file ``key`` that an archive holds."""

    file: Path
    key: str = ""
    offset: int = 0
    size: int = -1


class FileImages(StoredImages):
    """Images in files, whole or inside archives."""

    def __init__(self, spans: Sequence[FileSpan], identity: str) -> None:
        self.spans, self.identity = tuple(spans), identity

    def __len__(self) -> int:
        return len(self.spans)

    def name(self, index: int) -> str:
        span = self.spans[index]
        return f"{span.file}: {span.key}" if span.key else str(span.file)

    def content(self, index: int) -> bytes:
        span = self.spans[index]
        with span.file.open("rb") as file:
            file.seek(span.offset)
            return file.read(span.size)


class BundledImages(PairImages):
    """The first ``count`` images of a bundled data set."""

    def __init__(self, data: LabeledImages, count: int) -> None:
        self.data, self.count, self.identity = data, count, f"{data.name}-{count}"

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{self.data.name} {index}"

    def load(self, index: int, size: int) -> LoadedImage:
        pixels = _pixels(self.data, size, self.count)[index]
        return LoadedImage(pixels, hashlib.sha256(pixels.numpy().tobytes()).digest())


@lru_cache(maxsize=1)
def _pixels(data: LabeledImages, size: int, count: int) -> Tensor:
    return data.images(size, count)


def decode_square(content: bytes, size: int) -> Tensor:
    """An image file's middle square, float32 (3, size, size) in [0, 1], turned as its EXIF says.

    16-bit gray is scaled to 8 bits; transparent pixels are composited on white.

    Raises:
        BadImageError: undecodable, or smaller than ``size``.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(content)) as picture:
            if min(picture.size) < size:  # told by the header, before anything is decoded
                width, height = picture.size
                raise BadImageError(f"is {width} x {height}, smaller than {size} x {size}")
            turned = _in_rgb(ImageOps.exif_transpose(picture))
        pixels = np.asarray(center_square(turned, size))
    except BadImageError:
        raise
    except Exception as error:  # decoders of broken files raise whatever they fall over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImageError(f"cannot be decoded: {reason[:200]}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255.0


def _in_rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I"):  # convert would clip 16 bits at 255
        grey = np.asarray(picture).astype(np.float64).clip(0, 65535) / 257
        return Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def file_state(file: Path, name: str) -> tuple[str, int, int]:
    """The state that identifies a file's version: (name, bytes, modification time)."""
    state = file.stat()
    return name, state.st_size, state.st_mtime_ns


def listing_hash(rows: Iterable[object]) -> str:
    """Sixteen hex digits of rows of plain values, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row!r}\n".encode())
    return digest.hexdigest()[:16]


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


def center_square(picture: Image.Image, size: int) -> Image.Image:
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
