"""Reading benchmarks' files, with errors that name the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import RequestError

Item = Mapping[str, Any]
"""One prompt of a benchmark, with everything that its file says of it."""


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
