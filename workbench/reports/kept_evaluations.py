"""Evaluations that ``workbench evaluate`` kept in the workspace, as rows beside runs' tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workbench.evaluation.hashing import short_hash
from workbench.runs.kept_scores import ARTIFACTS
from workbench.workspace import Workspace

_NOT_PROTOCOL = ("steps", "id")


class KeptRow(NamedTuple):
    """One sampler's scores by name; ``protocol`` is what runs have as their tag ``evaluation``."""

    model: str
    steps: int
    nfe: float
    ms_per_image: float
    scores: Mapping[str, float]
    protocol: str
    file: Path


def kept_rows(workspace: Workspace, kind: str, name: str) -> list[KeptRow]:
    """What was measured of a model, by steps; the newest file counts where several measured one.

    Files of other models, or that are no evaluation, are passed over.

    Args:
        kind: ``TEACHER`` or ``STUDENT``.
        name: of the teacher, or "experiment/folder" of a run.
    """
    newest: dict[tuple[int, str], tuple[float, KeptRow]] = {}
    for file in sorted((workspace.root / ARTIFACTS).glob("*/*.json")):
        for row in _rows(file, kind, name):
            key, written = (row.steps, row.protocol), file.stat().st_mtime
            if key not in newest or newest[key][0] < written:
                newest[key] = (written, row)
    return [row for _, (_, row) in sorted(newest.items(), key=lambda item: item[0])]


def _rows(file: Path, kind: str, name: str) -> Iterator[KeptRow]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if (values["model"], values["name"]) != (kind, name):
            return
        made = values["fingerprint"]
        yield KeptRow(
            model=name,
            steps=int(values["steps"]),
            nfe=float(values["nfe"]),
            ms_per_image=float(values["ms_per_image"]),
            scores={name: float(values[name]) for name in values["scores"]},
            protocol=short_hash({k: v for k, v in made.items() if k not in _NOT_PROTOCOL}),
            file=file,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return
