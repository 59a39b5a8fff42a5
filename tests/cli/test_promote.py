"""The command that `studies promote` prints finds the variant that it wrote."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

import workbench.cli.study_trials as results
from tests.cli.conftest import InsideWorkbench
from workbench.registry import get_experiment
from workbench.studies import StudySpec
from workbench.workspace import open_workspace

VARIABLE = "WORKBENCH_EXPERIMENTS"


@pytest.fixture
def promoting(workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch) -> InsideWorkbench:
    """A study of quickstart whose trial 0 is complete, without a storage."""
    experiment = get_experiment("quickstart")
    spec = StudySpec("s", "quickstart", experiment.variant(), experiment.space)
    values = [0.5] * len(spec.objectives)
    trial = SimpleNamespace(params={"method.sid_alpha": 1.2}, values=values)
    monkeypatch.setattr(results, "open_trials", lambda *_: SimpleNamespace(spec=spec))
    monkeypatch.setattr(results, "_complete", lambda *_: trial)
    open_workspace(workbench.workspace)
    return workbench


def test_a_folder_that_is_not_searched_is_named_in_the_command(
    promoting: InsideWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched, other = tmp_path / "searched", tmp_path / "with space"
    searched.mkdir()
    monkeypatch.setenv(VARIABLE, str(searched))
    promote = ("studies", "promote", "s", "--trial", "0", "--variant")
    printed = promoting(*promote, "near", "--folder", str(searched)).stdout.splitlines()[-1]
    assert printed == "workbench run quickstart --variant near --seed 0,1,2"
    printed = promoting(*promote, "far", "--folder", str(other)).stdout.splitlines()[-1]
    setting, *command = shlex.split(printed)
    assert setting == f"{VARIABLE}={searched}{os.pathsep}{other}"
    assert "Unknown variant" in promoting(*command[1:], "--dry-run", code=2).stderr
    monkeypatch.setenv(VARIABLE, setting.partition("=")[2])
    shown = promoting(*command[1:], "--dry-run").stdout
    assert shown.count("would start") == 3
    assert shown.count("far-seed") == 3
