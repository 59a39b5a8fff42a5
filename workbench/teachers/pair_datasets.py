"""Pairs in a Hugging Face dataset: a column of images and one of captions."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.teachers.caption_files import CAPTION_KEYS
from workbench.teachers.hf_datasets import (
    DatasetAddress,
    choose_column,
    dataset_errors,
    open_dataset,
)
from workbench.teachers.pair_images import StoredImages, listing_hash
from workbench.teachers.pair_listing import PairListing, match

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
"""Looked for in this order where no column is named."""


class DatasetImages(StoredImages):
    """A dataset's column of images, opened anew in every process.

    Args:
        rows: the dataset's rows that are pairs.
        fingerprint: the dataset's own.
    """

    def __init__(
        self, address: DatasetAddress, column: str, rows: list[int], fingerprint: str
    ) -> None:
        self.address, self.column, self.rows = address, column, rows
        self.identity = listing_hash([fingerprint, column, rows])

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.address.name} row {self.rows[index]}"

    def content(self, index: int) -> bytes:
        value = _images(self.address, self.column)[self.rows[index]][self.column]
        stored, path = value, None
        if isinstance(value, dict):
            stored, path = value.get("bytes"), value.get("path")
        if isinstance(stored, str):
            stored, path = None, stored
        if stored is not None:
            return bytes(stored)
        if path is None:
            raise OSError("the row has no image")
        return Path(path).read_bytes()


def list_dataset(
    address: DatasetAddress, image_column: str | None, caption_column: str | None, limit: int | None
) -> PairListing:
    """The rows of a dataset that have an image and a caption.

    Raises:
        RequestError: no such dataset, split or column, a column of another kind, or too many rows
            without a caption.
    """
    where = f"The dataset {address.name}"
    with dataset_errors(address.name):
        dataset = open_dataset(address)
        names = dataset.column_names
        image = choose_column(image_column, names, IMAGE_COLUMNS, where, "data.image_column")
        caption = choose_column(caption_column, names, CAPTION_KEYS, where, "data.caption_column")
        _check_kinds(where, dataset.features, image, caption)
        texts: list[str | None] = list(dataset[caption])
        fingerprint = str(dataset._fingerprint)
    rows = {f"row {number}": number for number in range(len(texts))}
    matched = match(address.name, list(rows), dict(zip(rows, texts, strict=True)))
    kept = list(matched.captions)[:limit]
    images = DatasetImages(address, image, [rows[name] for name in kept], fingerprint)
    return PairListing(images, tuple(matched.captions[name] for name in kept), matched.skipped)


def _check_kinds(where: str, features: Any, image: str, caption: str) -> None:
    from datasets import Image, Value

    kind = features[caption]
    if not (isinstance(kind, Value) and kind.dtype in ("string", "large_string")):
        raise RequestError(f"{where} column {caption!r} holds {kind}, not text.")
    kind = features[image]
    is_bytes = isinstance(kind, Value) and kind.dtype in ("binary", "large_binary", "string")
    if not (isinstance(kind, Image) or is_bytes or (isinstance(kind, dict) and "bytes" in kind)):
        raise RequestError(f"{where} column {image!r} holds {kind}, not images.")


@lru_cache(maxsize=1)
def _images(address: DatasetAddress, column: str) -> Any:
    """The column as it is stored, undecoded."""
    from datasets import Image

    with dataset_errors(address.name):
        dataset = open_dataset(address).select_columns([column])
        if isinstance(dataset.features[column], Image):
            dataset = dataset.cast_column(column, Image(decode=False))
    return dataset
