"""The files of one run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.workspace import Workspace, write_json

if TYPE_CHECKING:
    from workbench.training.config import RunConfig

_TEACHER = "teacher.json"
_SET_ASIDE = "~"


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: configuration, checkpoints, journal, results and figures.

    The name holds experiment, variant, seed and the configuration's fingerprint, so that equal
    settings are the same run, which resumes, and other settings are another run.
    """

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def lock(self) -> Path:
        return self.path.with_name(f".{self.path.name}.lock")

    def config(self) -> RunConfig:
        # Here, because it brings torch: listing runs does not need it.
        from workbench.training.config import load_config

        return load_config(self.config_file)

    def results(self) -> dict[str, Any] | None:
        """What the finished run measured, or None while it is not finished.

        Raises:
            WorkbenchError: the file was cut off or damaged.
        """
        if not self.results_file.exists():
            return None
        try:
            return dict(json.loads(self.results_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise WorkbenchError(
                f"{self.results_file} is damaged ({error}): delete it, and `workbench run` goes on "
                "from the last checkpoint."
            ) from None

    def prepare(self, config: RunConfig, teacher_revision: str | None = None) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.config_file, config.model_dump(mode="json"))
        if teacher_revision is not None:
            write_json(self.path / _TEACHER, {"revision": teacher_revision})

    def teacher_revision(self) -> str | None:
        """The hub's commit that the run's teacher is pinned to; None for local teachers."""
        if not (self.path / _TEACHER).exists():
            return None
        content = json.loads((self.path / _TEACHER).read_text(encoding="utf-8"))
        return str(content["revision"])

    @property
    def is_archived(self) -> bool:
        """Whether :meth:`archive` has set it aside."""
        return _SET_ASIDE in self.path.name

    @property
    def first_name(self) -> str:
        """The folder's name before it was archived."""
        return self.path.name.partition(_SET_ASIDE)[0]

    def archive(self) -> Path | None:
        """Rename an existing run to free its name; returns the new path."""
        if not self.path.exists():
            return None
        number = 1
        while (kept := self.path.with_name(f"{self.path.name}{_SET_ASIDE}{number}")).exists():
            number += 1
        self.path.rename(kept)
        return kept


def judged_by(results: Mapping[str, Any]) -> str | None:
    """The primary metric in a finished run's results; None if the run had none."""
    earlier = results.get("headline", "fid")  # what results called it before, and held before that
    name: str | None = results.get("primary_metric", earlier)
    return name


def run_folder(workspace: Workspace, config: RunConfig) -> RunFolder:
    name = f"{config.variant}-seed{config.seed}-{config.fingerprint()}"
    return RunFolder(workspace.runs / config.experiment / name)


def all_runs(workspace: Workspace) -> Iterator[RunFolder]:
    """Every run of the workspace, by name."""
    for file in sorted(workspace.runs.glob("*/*/config.json")):
        yield RunFolder(file.parent)


def find_run(workspace: Workspace, reference: str) -> RunFolder:
    """A run by path, by full name, or by any unambiguous beginning or fingerprint.

    Raises:
        RequestError: no such run (names the nearest), or several.
    """
    matches = matching_runs(workspace, reference)
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(run.name for run in matches)
        raise RequestError(f"{reference!r} names several runs: {names}.")
    raise unknown_name("run", reference, (run.name for run in all_runs(workspace)))


def matching_runs(workspace: Workspace, reference: str) -> list[RunFolder]:
    """The runs that a reference may mean; see :func:`find_run`.

    A short name means archived runs only where no other run has it.
    """
    runs = {run.name: run for run in all_runs(workspace)}
    if reference in runs:
        return [runs[reference]]
    if (Path(reference) / "config.json").is_file():
        return [RunFolder(Path(reference).resolve())]
    found = [
        run
        for name, run in runs.items()
        if name.startswith(reference)
        or name.split("/")[1].startswith(reference)
        or name.endswith(f"-{reference}")
    ]
    return [run for run in found if not run.is_archived] or found
