"""Where a run's prompts come from: bundled, a text, JSONL or Parquet file, or a HF dataset."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from workbench.bundled import experiment_files
from workbench.data.bundled import BUNDLED
from workbench.data.captions import CAPTION_KEYS, checked_text, parsed_json, read_lines
from workbench.data.hf_datasets import (
    HUB,
    DatasetAddress,
    choose_column,
    dataset_errors,
    open_dataset,
)
from workbench.errors import RequestError, unknown_name
from workbench.settings import FrozenConfig

Row = tuple[str, Any]
"""(its place, for errors; its value)."""


class PromptsConfig(FrozenConfig):
    """Which prompts a run trains on."""

    source: str | None = Field(
        None,
        min_length=1,
        description="FILE.txt, .jsonl or .parquet; hf:NAME or hf:FOLDER (HF datasets); or the name "
        "of bundled prompts; none = not said",
    )
    column: str | None = Field(
        None, description="where a source has columns; none = the first of prompt, caption, text"
    )
    limit: int | None = Field(None, ge=1, description="only the first so many; none = all")
    split: str | None = Field(None, description="of an hf: source; none = train, or the only one")
    revision: str | None = Field(None, description="of an hf: source on the hub; none = newest")
    streaming: bool = Field(False, description="read an hf: source without storing it first")

    @model_validator(mode="before")
    @classmethod
    def _by_source(cls, given: Any) -> Any:
        return {"source": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _options_apply(self) -> PromptsConfig:
        if self.source is None:
            if self != PromptsConfig.model_construct():
                raise ValueError("options of prompts without a source: set prompts.source too")
            return self
        if not self.source.startswith(HUB):
            given = [name for name in ("split", "revision", "streaming") if getattr(self, name)]
            if given:
                raise ValueError(f"{given[0]} applies to hf: sources only, not to {self.source!r}")
        if self.column is not None and (
            self.source in BUNDLED or Path(self.source).suffix.lower() == ".txt"
        ):
            raise ValueError(f"the source {self.source!r} has no columns")
        return self

    @property
    def named_source(self) -> str:
        """The source.

        Raises:
            RequestError: none is said.
        """
        if self.source is None:
            raise RequestError("There are no prompts to learn from: set prompts.source.")
        return self.source


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the source's order, repeats kept.

    Attributes:
        dropped: how many empty ones there were.
        known_fingerprint: of a set that stands for others, instead of that of its prompts.
    """

    source: str
    prompts: tuple[str, ...]
    dropped: int = 0
    known_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the prompts in their order, wherever they came from."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256()
        for prompt in self.prompts:
            digest.update(hashlib.sha256(prompt.encode()).digest())
        return digest.hexdigest()[:16]


def read_prompts(config: PromptsConfig) -> PromptSet:
    """All prompts of a source, up to the limit; fewer than the limit are fine.

    Raises:
        RequestError: no such source, file, column or split, an unknown file type, text that is
            not UTF-8 or no text, or nothing but empty prompts; names the place.
    """
    prompts: list[str] = []
    dropped = 0
    for where, value in _rows(config):
        if config.limit is not None and len(prompts) == config.limit:
            break
        text = checked_text(where, value)
        if text.strip():
            prompts.append(text)
        else:
            dropped += 1
    if not prompts:
        found = f"only {dropped} empty ones" if dropped else "nothing"
        raise RequestError(f"The prompt source {config.named_source!r} holds no prompts: {found}.")
    return PromptSet(config.named_source, tuple(prompts), dropped)


def _rows(config: PromptsConfig) -> Iterator[Row]:
    source = config.named_source
    if source in BUNDLED:
        return ((f"prompt {number}", p) for number, p in enumerate(BUNDLED[source].prompts, 1))
    if source.startswith(HUB):
        return _dataset_rows(config)
    bundled = experiment_files("prompts", ".txt")
    path = bundled.get(source) or Path(source).expanduser()
    kind = path.suffix.lower()
    if config.column is not None and source in bundled:
        raise RequestError(f"The prompts {source!r} have no columns.")
    if path.is_dir():
        raise RequestError(
            f"The prompt source {source!r} is a folder. For a Hugging Face dataset in it "
            f"write prompts.source={HUB}{source}."
        )
    if not path.is_file():
        if kind not in _READERS and "/" not in source:
            raise unknown_name("prompt source", source, (*_KNOWN_SOURCES, *bundled))
        raise RequestError(f"There is no prompt file {source!r}.")
    if kind not in _READERS:
        raise unknown_name("type of prompt file", kind or path.name, _READERS)
    return _READERS[kind](path, config.column)


def _json_rows(path: Path, column: str | None) -> Iterator[Row]:
    """One JSON object a line."""
    for where, line in read_lines(path):
        if not line.strip():
            yield where, None
            continue
        row = parsed_json(where, line)
        if not isinstance(row, dict):
            raise RequestError(
                f'{where} is not a JSON object like {{"prompt": "..."}}: {line.strip()[:60]!r}.'
            )
        column = _column(column, row, where)
        yield where, row[column]


def _parquet_rows(path: Path, column: str | None) -> Iterator[Row]:
    """One column, read alone: ``datasets`` would read images beside it too."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            column = _column(column, file.schema_arrow.names, str(path))
            number = 0
            for batch in file.iter_batches(columns=[column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield f"{path} row {number}", value
    except UnicodeDecodeError:
        raise RequestError(f"{path} column {column!r} is not UTF-8.") from None
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"Cannot read {path} as Parquet: {reason[:300]}.") from None


def _dataset_rows(config: PromptsConfig) -> Iterator[Row]:
    """A Hugging Face dataset: on the hub, saved with save_to_disk, or a folder of data files."""
    name = config.named_source.removeprefix(HUB)
    address = DatasetAddress(name, "prompts", config.split, config.revision, config.streaming)
    with dataset_errors(name):
        dataset = open_dataset(address)
        names = dataset.column_names
        if names is None:  # a stream of files that name their columns row by row
            names = list(next(iter(dataset.take(1)), {}))
        column = _column(config.column, names, f"The dataset {name}")
        for number, row in enumerate(dataset.select_columns([column]), 1):
            yield f"The dataset {name} row {number}", row[column]


def _column(asked: str | None, columns: Iterable[str], where: str) -> str:
    """The named column, else the likeliest."""
    return choose_column(asked, columns, CAPTION_KEYS, where, "prompts.column")


_READERS: Mapping[str, Callable[[Path, str | None], Iterator[Row]]] = {
    ".txt": lambda path, _: read_lines(path),
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}
_KNOWN_SOURCES = (*BUNDLED, *(f"FILE{kind}" for kind in _READERS), f"{HUB}NAME", f"{HUB}FOLDER")
