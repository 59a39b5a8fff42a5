"""Small studies: real storage, and runs of two iterations on the tests' teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drill import brief_config
from workbench.runs.spec import RunSpec
from workbench.studies import Choice, Real, SearchSpace, StudySettings, StudySpec
from workbench.studies.storage import StudyStorage, default_storage
from workbench.studies.study import create_or_continue
from workbench.studies.trials import StudyTrials
from workbench.tracking import default_uri
from workbench.training.config import RunConfig
from workbench.training.recipes import run_config
from workbench.workspace import Workspace, open_workspace

SPACE: SearchSpace = {
    "method.sid_alpha": Real(0.8, 1.4),
    "generator.noise": Choice(("fresh", "ddim")),
}
PACE = StudySettings(heartbeat_s=1, grace_s=2, sampler="random")

MakeTrials = Callable[..., StudyTrials]


@pytest.fixture
def workspace(tmp_path: Path, evaluation_cache: Path) -> Workspace:
    """A workspace that has evaluated before."""
    place = open_workspace(tmp_path / "workspace")
    shutil.copytree(evaluation_cache, place.cache)
    return place


@pytest.fixture
def base(digits_teacher_dir: Path) -> RunConfig:
    """A run of two iterations."""
    return brief_config(digits_teacher_dir)


@pytest.fixture
def request_of(workspace: Workspace, base: RunConfig) -> RunSpec:
    """How trials are run here."""
    return RunSpec(base, workspace, default_uri(workspace.root))


@pytest.fixture
def trials_of(tmp_path: Path) -> MakeTrials:
    """Opens a study's trials, again and again, as another process would."""

    def opened(
        base: RunConfig | None = None,
        settings: StudySettings = PACE,
        space: SearchSpace = SPACE,
        name: str = "small",
        url: str | None = None,
    ) -> StudyTrials:
        url = url or default_storage(tmp_path)
        storage = StudyStorage(url)
        spec = StudySpec(name, "quickstart", base or run_config(), space, settings)
        return StudyTrials(storage, create_or_continue(storage, spec))

    return opened
