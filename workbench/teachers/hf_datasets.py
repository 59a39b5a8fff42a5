"""Hugging Face datasets: on the hub, saved with save_to_disk, a folder of data files, Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, unknown_name

HUB = "hf:"
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
    """The asked-for split; "train", or the only one, unless named.

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
    """What the datasets library raises, as one line; no bars of its own."""
    import datasets

    from workbench.teachers.hub import one_line

    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise RequestError(f"Cannot read the dataset {name!r}: {one_line(error)}") from error
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
