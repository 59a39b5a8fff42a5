"""Where a run's image-text pairs come from: embedded, a folder, tar shards, or a HF dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, model_validator

from workbench.data.bundled import BUNDLED
from workbench.data.folder import list_folder
from workbench.data.hf_datasets import HUB, DatasetAddress, list_dataset
from workbench.data.images import BundledImages
from workbench.data.listing import PairListing
from workbench.data.webdataset import SHARD, list_tars
from workbench.errors import RequestError, unknown_name
from workbench.settings import FrozenConfig

_BUNDLED = "bundled"
PARQUET = ".parquet"
_KNOWN_SOURCES = (*BUNDLED, "FOLDER", f"SHARDS{SHARD}", f"FILE{PARQUET}", f"{HUB}NAME_OR_FOLDER")


class PairsConfig(FrozenConfig):
    """Which image-text pairs a method learns from."""

    source: str = Field(
        min_length=1,
        description="a FOLDER of images with captions; tar shards like DIR/{0000..0015}.tar; "
        "FILE.parquet; hf:NAME or hf:FOLDER; or the name of bundled data",
    )
    captions: str | None = Field(
        None,
        min_length=1,
        description="of a folder: its file of captions; none = captions.jsonl or the like in it, "
        "or NAME.txt beside NAME.png",
    )
    image_column: str | None = Field(None, description="of a dataset; none = image or the like")
    caption_column: str | None = Field(
        None, description="where a source has columns; none = the first of prompt, caption, text"
    )
    limit: int | None = Field(None, ge=2, description="only the first so many; none = all")
    split: str | None = Field(None, description="of a dataset; none = train, or the only one")
    revision: str | None = Field(None, description="of an hf: source on the hub; none = newest")

    @model_validator(mode="after")
    def _options_apply(self) -> PairsConfig:
        _, applying = _KINDS[_kind(self.source)]
        given = [
            name
            for name in ("captions", "image_column", "caption_column", "split", "revision")
            if getattr(self, name) is not None and name not in applying
        ]
        if given:
            raise ValueError(f"{given[0]} does not apply to the source {self.source!r}")
        return self


def read_pairs(config: PairsConfig) -> PairListing:
    """The pairs of a source, up to the limit; no image is decoded yet.

    Raises:
        RequestError: no such source, an unreadable one, fewer than two pairs, or above 1 % of them
            lack a caption or an image.
    """
    read, _ = _KINDS[_kind(config.source)]
    listing = read(config)
    if len(listing.prompts) < 2:
        raise RequestError(
            f"{config.source} holds {len(listing.prompts)} image-text pairs; expected 2 or more."
        )
    return listing


def _kind(source: str) -> str:
    if source in BUNDLED:
        return _BUNDLED
    if source.startswith(HUB):
        return HUB
    kind = Path(source).suffix.lower()
    return kind if kind in (SHARD, PARQUET) else ""


def _bundled(config: PairsConfig) -> PairListing:
    """A class's wordings take turns."""
    data = BUNDLED[config.source]
    labels = [int(label) for label in data.labels][: config.limit]
    turns: Counter[int] = Counter()
    prompts = []
    for label in labels:
        wordings = data.prompts_of(label)
        prompts.append(wordings[turns[label] % len(wordings)])
        turns[label] += 1
    return PairListing(BundledImages(data, len(labels)), tuple(prompts))


def _folder(config: PairsConfig) -> PairListing:
    folder = Path(config.source).expanduser()
    if not folder.is_dir():
        if folder.is_file() or "/" in config.source:
            what = "is a file" if folder.is_file() else "does not exist"
            raise RequestError(
                f"The data source {config.source!r} {what}; known: {', '.join(_KNOWN_SOURCES)}."
            )
        raise unknown_name("data source", config.source, _KNOWN_SOURCES)
    captions = None if config.captions is None else Path(config.captions).expanduser()
    return list_folder(folder, captions, config.caption_column, config.limit)


def _dataset(config: PairsConfig) -> PairListing:
    name = config.source.removeprefix(HUB)
    if _kind(config.source) == PARQUET and not Path(name).expanduser().is_file():
        raise RequestError(f"There is no Parquet file {name!r}.")
    address = DatasetAddress(name, "data", config.split, config.revision)
    return list_dataset(address, config.image_column, config.caption_column, config.limit)


_KINDS: dict[str, tuple[Callable[[PairsConfig], PairListing], tuple[str, ...]]] = {
    _BUNDLED: (_bundled, ()),
    HUB: (_dataset, ("image_column", "caption_column", "split", "revision")),
    PARQUET: (_dataset, ("image_column", "caption_column")),
    SHARD: (lambda c: list_tars(c.source, c.caption_column, c.limit), ("caption_column",)),
    "": (_folder, ("captions", "caption_column")),
}
"""Kind of source -> its reader, and the options that apply to it."""
