"""What an evaluation gives: scores with all that decides each, one row for every sampler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.evaluation import Extrapolation, Interval
from workbench.hashing import fingerprint
from workbench.scoring.kept_scores import ScoreName, file_stem, scores_folder, short_protocol
from workbench.workspace import Workspace, write_json


@dataclass(frozen=True)
class Score:
    """One score with all that decides it.

    ``bias`` is what finite N adds to a Frechet distance, None where it cannot be told.
    """

    name: str
    value: float
    fingerprint: Mapping[str, Any]
    interval: Interval | None = None
    bias: float | None = None
    extrapolated: Extrapolation | None = None


@dataclass(frozen=True)
class ScoredRow:
    """One sampler's scores.

    ``steps`` is None for images; ``kimg``, of a run's student, what it was trained on; ``how``, of
    what is drawn, schedule, shift and guidance.
    """

    model: str
    kind: str
    reference: str
    samples: int
    steps: int | None
    nfe: float
    ms_per_image: float
    scores: tuple[Score, ...]
    fingerprint: Mapping[str, Any]
    kimg: float | None = None
    how: str = ""

    @property
    def seed(self) -> int:
        """The evaluation seed; 0 for what is not drawn."""
        return int(self.fingerprint["seed"])

    def as_dict(self) -> dict[str, Any]:
        """Scores by name beside the sampler's own columns; all about each under ``scores``."""
        head = {"model": self.kind, "steps": self.steps, "nfe": self.nfe}
        values = {score.name: score.value for score in self.scores}
        return {
            **head,
            **values,
            "ms_per_image": self.ms_per_image,
            "fingerprint": dict(self.fingerprint),
            "name": self.model,
            "kimg": self.kimg,
            "how": self.how,
            "reference": self.reference,
            "samples": self.samples,
            "seed": self.seed,
            "scores": {score.name: asdict(score) for score in self.scores},
        }

    def tracked(self) -> dict[str, float]:
        """The scores by their names in MLflow; of a run's student."""
        return {
            ScoreName(
                self.reference,
                score.name,
                self.steps or 0,
                short_protocol(score.fingerprint["protocol"]),
                self.seed,
            ).key: score.value
            for score in self.scores
        }


@dataclass(frozen=True)
class Evaluation:
    """Rows, the files that keep them, and operations the tracking store has not taken yet.

    ``run`` is the run that the scores belong to, if any; ``unlogged`` is why they were not logged
    to it.
    """

    rows: tuple[ScoredRow, ...]
    files: tuple[Path, ...] = ()
    run: str | None = None
    undelivered: int = 0
    unlogged: str | None = None


def keep_row(workspace: Workspace, row: ScoredRow) -> Path:
    """Write a row whole into the workspace; the same protocol and sampler have the same file."""
    ids = fingerprint([score.fingerprint["id"] for score in row.scores])
    folder = scores_folder(workspace, row.model)
    file = folder / f"{file_stem(row.reference, row.steps)}{ids}.json"
    write_json(file, row.as_dict())
    return file
