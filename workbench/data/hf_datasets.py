"""Hugging Face datasets: on the hub, saved with save_to_disk, a folder of data files, Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.data.captions import CAPTION_KEYS
from workbench.data.images import StoredImages, listing_hash
from workbench.data.listing import PairListing, match
from workbench.errors import RequestError, unknown_name

HUB = "hf:"
IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
"""Default names of the image column, in this order."""

_SAVED_DATASET = ("state.json", "dataset_dict.json")  # written by save_to_disk


def is_remote(source: str | None) -> bool:
    """Whether reading a source asks the hub: an ``hf:`` one that is nothing on this disk."""
    return (
        source is not None
        and source.startswith(HUB)
        and not Path(source.removeprefix(HUB)).expanduser().exists()
    )


@dataclass(frozen=True)
class DatasetAddress:
    """Which dataset, and which part of it.

    Attributes:
        name: on the hub, a folder, or a Parquet file.
        settings: the group of settings that asks for it, for errors: "prompts" or "data".
    """

    name: str
    settings: str
    split: str | None = None
    revision: str | None = None
    streaming: bool = False


def open_dataset(address: DatasetAddress) -> Any:
    """A dataset's split; "train", or the only one, by default.

    Call it, and read from the dataset, within :func:`dataset_errors`.

    Raises:
        RequestError: no such split, or a setting that does not apply to what is on this disk.
    """
    import datasets

    path = Path(address.name).expanduser()
    if path.exists() and address.revision is not None:
        raise RequestError(
            f"{address.name} is a {'folder' if path.is_dir() else 'file'}: "
            f"{address.settings}.revision applies to the hub only."
        )
    if any((path / file).is_file() for file in _SAVED_DATASET):
        if address.streaming:
            raise RequestError(
                f"{address.name} is on this disk already: drop {address.settings}.streaming."
            )
        loaded = datasets.load_from_disk(str(path))
    elif path.is_file():
        loaded = datasets.load_dataset("parquet", data_files=str(path), streaming=address.streaming)
    else:
        where = str(path) if path.is_dir() else address.name
        loaded = datasets.load_dataset(
            where, revision=address.revision, streaming=address.streaming
        )
    splits = loaded if isinstance(loaded, Mapping) else {str(loaded.split or "train"): loaded}
    return splits[_split(address.split, list(splits))]


@contextmanager
def dataset_errors(name: str) -> Iterator[None]:
    """Turns errors of the datasets library into one line, and hides its progress bars."""
    import datasets
    from huggingface_hub import get_token

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        if token := get_token():
            reason = reason.replace(token, "***")
        raise RequestError(f"Cannot read the dataset {name!r}: {reason[:300]}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def choose_column(
    asked: str | None, columns: Iterable[str], likely: Sequence[str], where: str, setting: str
) -> str:
    """The named column, else the likeliest.

    Args:
        likely: names looked for in this order where none is asked for.
        where: whose columns they are, and ``setting`` names one; both for errors.

    Raises:
        RequestError: no such column, or none of the likely ones.
    """
    names = list(columns)
    if asked is not None:
        if asked not in names:
            raise RequestError(f"{where}: {unknown_name('column', asked, names)}")
        return asked
    for name in likely:
        if name in names:
            return name
    raise RequestError(
        f"{where} has none of the columns {', '.join(likely)}. Set {setting} to one "
        f"of: {', '.join(names) or 'none there'}."
    )


def _split(asked: str | None, splits: list[str]) -> str:
    if asked is None and len(splits) == 1:
        return splits[0]
    wanted = asked or "train"
    if wanted not in splits:
        raise unknown_name("split of the dataset", wanted, splits)
    return wanted


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
    captions = dict(zip(rows, texts, strict=True))
    kept, skipped = match(address.name, list(rows), captions, limit)
    images = DatasetImages(address, image, [rows[name] for name in kept], fingerprint)
    return PairListing(images, tuple(kept.values()), skipped)


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
