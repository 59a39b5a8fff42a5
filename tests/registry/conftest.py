"""A workspace with a store of its own, made once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from workbench.workspace import Workspace, open_workspace


@pytest.fixture
def place(tmp_path: Path, fresh_store: Path) -> Workspace:
    workspace = open_workspace(tmp_path / "workspace")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    return workspace
