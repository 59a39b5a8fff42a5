"""Imported scores of external benchmarks: their names in MLflow, their files. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.scoring.kept_scores import scores_folder
from workbench.workspace import Workspace, write_json

EXTERNAL = "external"
"""A run's folder of imported scores in the tracking store."""

_KEY = re.compile(r"eval/(?P<benchmark>\w+)(-(?P<steps>\d+)steps)?")
_TEACHER = re.compile(r".* \((?P<fingerprint>[^()]*)\)")
_OF_THE_MODEL = ("model", "teacher", "weights", "steps", "cfg_scale", "run", "kimg", "noise")
"""What of a sampler says which model it is, and how it is called; the rest is protocol."""


@dataclass(frozen=True)
class ExternalName:
    """A logged benchmark's overall score; ``steps`` is None for all of the student's own."""

    metric: str
    steps: int | None = None

    @property
    def key(self) -> str:
        """The MLflow metric."""
        return f"eval/{self.metric}" + ("" if self.steps is None else f"-{self.steps}steps")

    @classmethod
    def parse(cls, key: str) -> ExternalName | None:
        """The name behind an MLflow metric; None for any other metric."""
        found = _KEY.fullmatch(key)
        if found is None:
            return None
        # Here, because it brings torch: whoever asks for no benchmark does not need it.
        from workbench.evaluation.external import BENCHMARKS

        if found["benchmark"] not in BENCHMARKS:
            return None
        steps = found["steps"]
        return cls(found["benchmark"], None if steps is None else int(steps))


@dataclass(frozen=True)
class ExternalFile:
    """What is kept of one import.

    Attributes:
        model: run, teacher or folder whose images were scored.
        kimg: that it was trained on, if it is a student.
        values: score by name; the benchmark's own name is the overall one.
        fingerprint: all that decided them.
    """

    benchmark: str
    model: str
    kimg: float | None
    values: Mapping[str, float]
    fingerprint: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> ExternalFile | None:
        """What a file says; None where it is no such file."""
        try:
            content = json.loads(text)
            found = cls(**{name: content[name] for name in cls.__dataclass_fields__})
            float(found.score), found.steps, found.protocol  # of a damaged one, here
        except (ValueError, KeyError, TypeError):
            return None
        return found

    @property
    def score(self) -> float:
        return self.values[self.benchmark]

    @property
    def steps(self) -> int:
        return int(self.fingerprint["sampler"]["steps"])

    @property
    def seed(self) -> int:
        """Of the first image's noise; equal for all models unless it was asked for."""
        return int(self.fingerprint["sampler"].get("seed", 0))

    def is_of(self, teacher: str, cfg_scale: float) -> bool:
        """Whether a teacher of these files (fingerprint) drew the images with this guidance."""
        sampler = self.fingerprint["sampler"]
        found = _TEACHER.fullmatch(str(sampler.get("teacher", "")))
        scale = float(sampler.get("cfg_scale", 1.0))
        return found is not None and (found["fingerprint"], scale) == (teacher, cfg_scale)

    @property
    def protocol(self) -> str:
        """Id of all that decides the score besides the model and its steps."""
        from workbench.hashing import fingerprint

        sampler = self.fingerprint["sampler"]
        made = {key: value for key, value in sampler.items() if key not in _OF_THE_MODEL}
        shared = {key: self.fingerprint[key] for key in ("benchmark", "prompts", "samples")}
        return fingerprint({**shared, "sampler": made})

    def path(self, workspace: Workspace) -> Path:
        """Where a workspace keeps it."""
        name = f"{self.benchmark}-{self.fingerprint['id']}.json"
        return scores_folder(workspace, self.model) / name

    def write(self, workspace: Workspace) -> Path:
        file = self.path(workspace)
        write_json(file, asdict(self))
        return file
