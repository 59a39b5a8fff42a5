"""One run as a whole, and what tells two apart, from their folders alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.runs.summary import summarize
from workbench.training.overrides import flattened
from workbench.training.run_folder import RunFolder

_VERSIONS = "versions"


def describe(folder: RunFolder) -> dict[str, Any]:
    """State, settings, scores of the last evaluation, versions and files of a run.

    Returns:
        ``run``, ``state``, ``kimg``, ``total_kimg``, ``primary_metric``, ``folder``; ``settings``
        by dotted key; ``scores``, a row for each model and step count (none before the run has
        ended); ``versions`` of the packages that scored it; ``evaluation``, what else decided its
        scores; ``teacher`` and ``start``, by their fingerprints; ``events`` of its training;
        ``sizes`` in bytes by what takes them.

    Raises:
        RequestError: the configuration or the results cannot be read.
    """
    summary = summarize(folder)
    results = _results(folder)
    rows = results.get("table", [])
    told = [row["fingerprint"] for row in rows if "fingerprint" in row]
    names = ("run", "state", "kimg", "total_kimg", "primary_metric", "folder")
    return {
        **{name: summary[name] for name in names},
        "settings": flattened(folder.config().model_dump(mode="json")),
        "scores": [{key: row[key] for key in row if key != "fingerprint"} for row in rows],
        _VERSIONS: {name: text for each in told for name, text in each[_VERSIONS].items()},
        "evaluation": _conditions(told),
        "teacher": results.get("teacher"),
        "start": results.get("start"),
        "events": results.get("events", []),
        "sizes": sizes_of(folder),
    }


@dataclass(frozen=True)
class Difference:
    """One thing in which two runs differ; None where a run has no such thing."""

    kind: str
    name: str
    first: Any
    second: Any


def differences(first: RunFolder, second: RunFolder) -> list[Difference]:
    """What differs: settings, teacher, start, versions, the evaluation and scores, in this order.

    Example:
        >>> [d.name for d in differences(a, b) if d.kind == "setting"]  # doctest: +SKIP
        ['seed', 'method.weighting']

    Raises:
        RequestError: a run's configuration or results cannot be read.
    """
    one, two = describe(first), describe(second)
    found = _differing("setting", one["settings"], two["settings"])
    for source in ("teacher", "start"):
        found += _differing(source, _named(one[source]), _named(two[source]))
    found += _differing("version", one[_VERSIONS], two[_VERSIONS])
    found += _differing("evaluation", one["evaluation"], two["evaluation"])
    return found + _differing("score", _scores(one["scores"]), _scores(two["scores"]))


def sizes_of(folder: RunFolder) -> dict[str, int]:
    """Bytes on disk of each part of a run's folder, and of its own files together."""
    return sizes_in(folder.path)


def sizes_in(place: Path) -> dict[str, int]:
    """Bytes of each folder within a place, and of its own files together (``files``)."""
    sizes: dict[str, int] = {}
    for here, _, names in os.walk(place):  # a folder that vanishes meanwhile is no error
        inside = Path(here).relative_to(place).parts
        part = inside[0] if inside else "files"
        for name in names:
            with suppress(FileNotFoundError):
                found = (Path(here) / name).lstat()
                sizes[part] = sizes.get(part, 0) + found.st_size
    return dict(sorted(sizes.items()))


def _named(source: object) -> dict[str, Any]:
    return dict(source) if isinstance(source, Mapping) else {}


def _results(folder: RunFolder) -> dict[str, Any]:
    return _read(folder, folder.results_file) if folder.results_file.exists() else {}


def _read(folder: RunFolder, file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"{folder.name}: {file} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise RequestError(f"{folder.name}: {file} holds no settings or results.")
    return values


def _conditions(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all rows were measured with, as far as it is no version and no step count."""
    own = ("id", "steps", _VERSIONS)
    return flattened({k: v for each in fingerprints for k, v in each.items() if k not in own})


def _scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By model, steps and metric; times are no scores."""
    told = ("steps", "nfe", "ms_per_image")
    return {
        f"{row['model']}, {_steps(row['steps'])}: {name}": value
        for row in rows
        for name, value in row.items()
        if name not in told and isinstance(value, float)
    }


def _differing(kind: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    names = [*first, *(name for name in second if name not in first)]
    return [
        Difference(kind, name, first.get(name), second.get(name))
        for name in names
        if not _equal(first.get(name), second.get(name))
    ]


def _equal(first: Any, second: Any) -> bool:
    both_nan = first != first and second != second
    return both_nan or bool(first == second)


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
