"""Images that were drawn for a benchmark, and what its result file says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from workbench.errors import RequestError
from workbench.hashing import file_sha256, fingerprint
from workbench.workspace import write_json

MANIFEST = "external.json"

Item = Mapping[str, Any]
"""One prompt of a benchmark, with everything that its file says of it."""


class Benchmark(Protocol):
    """One benchmark's files."""

    @property
    def name(self) -> str: ...

    def read_items(self, path: Path) -> tuple[Item, ...]:
        """The prompts of the benchmark's own file; raises RequestError if it is none."""
        ...

    def place(self, export: Export, index: int, sample: int) -> str:
        """Where image ``sample`` of prompt ``index`` stands in the folder."""
        ...

    def write_items(self, export: Export) -> None:
        """What the benchmark's script reads beside the images."""
        ...

    def read_results(self, export: Export, path: Path) -> dict[str, float]:
        """Scores by name from the script's result file; raises RequestError if it is another's."""
        ...

    def how_to_score(self, export: Export) -> str:
        """The command of the benchmark's own environment."""
        ...


@dataclass(frozen=True)
class Export:
    """Images that were drawn for a benchmark.

    Attributes:
        folder: where they are.
        benchmark: whose layout it is.
        items: the prompts.
        samples: images of each prompt.
        model: its name.
        sampler: how they were drawn; part of the scores' fingerprint.
        nimg: images that the model had been trained on, if it is a student.
    """

    folder: Path
    benchmark: Benchmark
    items: tuple[Item, ...]
    samples: int
    model: str
    sampler: Mapping[str, str]
    nimg: int | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompt of every image, in the order of :meth:`paths`."""
        return [item["prompt"] for item in self.items for _ in range(self.samples)]

    def paths(self) -> Iterator[Path]:
        """Every image's file, prompt by prompt."""
        for index in range(len(self.items)):
            for sample in range(self.samples):
                yield self.folder / self.benchmark.place(self, index, sample)

    @cached_property
    def prompts_hash(self) -> str:
        return fingerprint([dict(item) for item in self.items])

    def begin(self) -> None:
        """Write everything but the images; the same export goes on where it stopped.

        Raises:
            RequestError: the folder holds something else.
        """
        manifest = self._manifest()
        kept = self.folder / MANIFEST
        if kept.exists():
            if read_json(kept) != manifest:
                raise RequestError(
                    f"{self.folder} holds another export ({kept}); name another folder."
                )
        elif self.folder.exists() and (self.folder.is_file() or any(self.folder.iterdir())):
            raise RequestError(f"{self.folder} is not empty and no export; name another folder.")
        for path in self.paths():
            path.parent.mkdir(parents=True, exist_ok=True)
        self.benchmark.write_items(self)
        write_json(kept, manifest)

    def _manifest(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark.name,
            "model": self.model,
            "nimg": self.nimg,
            "samples": self.samples,
            "sampler": dict(self.sampler),
            "items": [dict(item) for item in self.items],
        }


@dataclass(frozen=True)
class ExternalScores:
    """Scores by name and everything that decided them, with its own short hash as ``"id"``."""

    values: Mapping[str, float]
    fingerprint: Mapping[str, Any]


def import_results(export: Export, results: Path) -> ExternalScores:
    """The scores in a result file, after holding it against what was exported.

    Raises:
        RequestError: unreadable, of other prompts or images, or not of all of them: a score of
            some is none.
    """
    values = export.benchmark.read_results(export, results)
    parts = {
        "benchmark": export.benchmark.name,
        "results": file_sha256(results),
        "prompts": export.prompts_hash,
        "samples": export.samples,
        "sampler": dict(export.sampler),
    }
    return ExternalScores(values, {**parts, "id": fingerprint(parts)})


def checked_items(path: Path, items: Sequence[Any], keys: Sequence[str]) -> tuple[Item, ...]:
    for number, item in enumerate(items, 1):
        lacking = [key for key in keys if not isinstance(item, dict) or item.get(key) in (None, "")]
        if lacking:
            raise RequestError(f"{path}, prompt {number}: there is no {' and no '.join(lacking)}.")
    if not items:
        raise RequestError(f"{path} holds no prompts.")
    return tuple(items)


def all_there(path: Path, expected: Sequence[str], found: Mapping[str, object]) -> None:
    missing = [key for key in expected if key not in found]
    if missing:
        raise RequestError(
            f"{path} lacks {len(missing)} of {len(expected)} results, the first is {missing[0]}: "
            "no score is made of the others."
        )


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}.") from error


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, for errors; one line's object)."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not text: {error}.") from error
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{where} is not JSON: {error}.") from error
        if not isinstance(record, dict):
            raise RequestError(f"{where} holds no JSON object.")
        yield where, record
