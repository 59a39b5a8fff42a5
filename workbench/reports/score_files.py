"""The files that ``workbench evaluate`` keeps of scores, found behind their names in MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.errors import WorkbenchError
from workbench.scoring.external_scores import EXTERNAL, ExternalFile, ExternalName
from workbench.scoring.kept_scores import (
    ARTIFACTS,
    ScoreName,
    file_stem,
    scores_folder,
    short_protocol,
)
from workbench.tracking import RunRow, list_artifacts, read_artifact
from workbench.training.run_folder import RunFolder
from workbench.workspace import Workspace

_LAST_BITS = 1e-3  # by so much, relative, the same score may differ when it is measured again


@dataclass(frozen=True)
class KeptScore:
    """One score of a file.

    ``interval`` is over samples, of this one student; ``kimg`` is what it was trained on, where
    the file says so.
    """

    value: float
    interval: tuple[float, float] | None
    kimg: float | None
    fingerprint: Mapping[str, Any]


class ScoreFiles:
    """Reads them from the workspace, else from the tracking store.

    ``problems`` are the files that could not be had, one line each.
    """

    def __init__(self, tracking_uri: str, workspace: Workspace) -> None:
        self._uri, self._workspace = tracking_uri, workspace
        self.problems: list[str] = []

    def find(self, row: RunRow, name: ScoreName) -> KeptScore | None:
        """The file behind a run's logged score; None where there is none."""
        stem = file_stem(name.reference, name.steps)
        for texts in self._texts(row, ARTIFACTS, stem):
            found = [kept for text in texts if (kept := _parsed(text, name)) is not None]
            found.sort(key=lambda kept: kept.fingerprint["seed"] != name.seed)
            # Of one run at several kimg: only one of them is the score that is logged last.
            same = [kept for kept in found if _is_close(kept.value, row.metrics[name.key])]
            if same:
                return same[0]
        return None

    def find_benchmark(self, row: RunRow, name: ExternalName) -> ExternalFile | None:
        """The file behind a run's imported benchmark; None where there is none."""
        for texts in self._texts(row, EXTERNAL, f"{name.metric}-"):
            found = [kept for text in texts if (kept := ExternalFile.parse(text)) is not None]
            same = [
                kept
                for kept in found
                if kept.benchmark == name.metric
                and name.steps in (None, kept.steps)
                and _is_close(kept.score, row.metrics[name.key])
            ]
            if same:
                return same[0]
        return None

    def _texts(self, row: RunRow, artifacts: str, stem: str) -> Iterator[Iterator[str]]:
        """A run's files whose names begin so: those of the workspace, then the store's."""
        yield self._here(row, stem)
        yield self._tracked(row, artifacts, stem)

    def _here(self, row: RunRow, stem: str) -> Iterator[str]:
        run = RunFolder(Path(row.tags.get("folder", row.name)))
        for file in sorted(scores_folder(self._workspace, run.name).glob(f"{stem}*.json")):
            yield file.read_text(encoding="utf-8")

    def _tracked(self, row: RunRow, artifacts: str, stem: str) -> Iterator[str]:
        try:
            for path in sorted(list_artifacts(self._uri, row.run_id, artifacts)):
                if PurePosixPath(path).name.startswith(stem):
                    yield read_artifact(self._uri, row.run_id, path)
        except WorkbenchError as error:
            self.problems.append(f"{row.name}: {error}")


def _parsed(text: str, name: ScoreName) -> KeptScore | None:
    """The score of that name in a file's text; None where it is of another, or no such file."""
    try:
        content = json.loads(text)
        score = content["scores"][name.metric]
        made = score["fingerprint"]
        own = (content["reference"], content["steps"], short_protocol(made["protocol"]))
        if own != (name.reference, name.steps, name.protocol):
            return None
        if name.seed not in (0, made["seed"]):  # names of before hold none
            return None
        ends, kimg = score["interval"], content.get("kimg")
        return KeptScore(
            value=float(score["value"]),
            interval=None if ends is None else (float(ends["low"]), float(ends["high"])),
            kimg=None if kimg is None else float(kimg),
            fingerprint=made,
        )
    except (ValueError, KeyError, TypeError):
        return None


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_LAST_BITS, abs_tol=1e-9)
