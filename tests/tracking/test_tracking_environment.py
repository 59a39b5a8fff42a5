"""Tags from the environment, and what importing the room costs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from workbench.tracking import environment_tags
from workbench.tracking.environment import git_tags


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "package").mkdir()
    (tmp_path / "package/code.py").write_text("x = 1\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "package")
    _git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "first")
    return tmp_path


def _git(folder: Path, *arguments: str) -> str:
    environment = {key: v for key, v in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


def test_commit_and_dirty_flag_of_the_checkout(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as inside a git hook
    code = checkout / "package/code.py"
    commit = _git(checkout, "rev-parse", "HEAD")
    clean = git_tags(code)
    assert clean["git.commit"] == clean["mlflow.source.git.commit"] == commit
    assert clean["git.dirty"] == clean["mlflow.source.git.dirty"] == "false"
    code.write_text("x = 2\n")
    assert git_tags(code)["git.dirty"] == "true"
    code.write_text("x = 1\n")
    (checkout / "package/new.py").write_text("")
    assert git_tags(code)["git.dirty"] == "true"


def test_code_that_merely_lies_in_somebodys_checkout_has_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    installed = checkout / ".venv/lib/workbench.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("")
    assert git_tags(installed) == {}
    assert git_tags(tmp_path_factory.mktemp("bare") / "code.py") == {}


def test_without_git_there_is_no_commit_and_no_error(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert git_tags(checkout / "package/code.py") == {}


def test_machine_and_versions_are_told_and_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/workbench", "run", "--tracking-uri", "hunter2"])
    tags = environment_tags(("mlflow", "no-such-package"))
    assert tags["version.mlflow"] == metadata.version("mlflow")
    assert tags["version.python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["host"]
    assert tags["mlflow.source.name"] == "workbench"
    assert "version.no-such-package" not in tags
    assert "hunter2" not in str(tags)


def test_importing_the_room_imports_nothing_heavy() -> None:
    script = (
        "import os, sys; before = dict(os.environ); import workbench.tracking;"
        "assert not [k for k in os.environ.keys() - before if k.startswith(('MLFLOW', 'PG'))];"
        "print(*{'mlflow', 'pandas', 'numpy', 'torch', 'PIL', 'psutil'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "\n"
