"""What is asked of one run, from the command line, a study or a cluster down to its ranks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder, run_folder
from workbench.workspace import Workspace, write_json


@dataclass(frozen=True)
class RunSpec:
    """One run: what, where and how. Nothing here but ``config`` changes a result.

    It travels between processes, and can be a process of its own (:meth:`command`).
    ``tracking_uri`` may hold a password: it goes into the environment, never into a command line.

    Attributes:
        nproc: ranks on this machine.
        fresh: start over; the earlier run is kept beside it.
        tags: of the tracked run, beside its own.
    """

    config: RunConfig
    workspace: Workspace
    tracking_uri: str
    nproc: int = 1
    fresh: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        return run_folder(self.workspace, self.config)

    @property
    def name(self) -> str:
        """As a queue shows it."""
        return self.folder.path.name

    @property
    def title(self) -> str:
        """For people: variant and seed."""
        return f"{self.config.variant}, seed {self.config.seed}"

    @property
    def config_file(self) -> Path:
        """What :meth:`command` reads and :meth:`write` writes."""
        return self._file(".json")

    @property
    def log(self) -> Path:
        """What the run's own process printed."""
        return self._file(".log")

    @property
    def last_words(self) -> str:
        """The last line of the log: what a failed process said."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "it left no log"
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("Error: ") if said else "it printed nothing"

    def command(self) -> list[str]:
        """The run as a process of its own."""
        return [
            *(sys.executable, "-m", "workbench", "run", str(self.config_file)),
            *("--workspace", str(self.workspace.root)),
            *(["--nproc", str(self.nproc)] if self.nproc > 1 else []),
            *(["--fresh"] if self.fresh else []),
        ]

    def environment(self) -> dict[str, str]:
        """What that process needs beside this one's environment."""
        return {"MLFLOW_TRACKING_URI": self.tracking_uri}

    def without_secrets(self) -> Self:
        """The spec as it may be written to disk: :meth:`environment` holds what is missing."""
        return replace(self, tracking_uri="")

    def write(self) -> None:
        """Save the configuration where :meth:`command` looks for it."""
        write_json(self.config_file, self.config.model_dump(mode="json"))

    def _file(self, suffix: str) -> Path:
        return job_file(self.workspace, self.folder, suffix)


def job_file(workspace: Workspace, folder: RunFolder, suffix: str) -> Path:
    """What is kept of a run's processes: its settings (``.json``), what they printed (``.log``)."""
    return workspace.root / "jobs" / folder.path.parent.name / f"{folder.first_name}{suffix}"
