"""A real MLflow store for every test: made once, copied for each."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    default_artifact_root,
    default_uri,
    load_record,
)

QUICK = UploaderSettings(interval=0.05, finish_timeout=60.0, system_interval=0.0)
IDENTITY = RunIdentity("digits", "sid-0", {"training.batch_size": "128"}, {"method": "sid"})


@pytest.fixture
def workspace(fresh_store: Path, tmp_path: Path) -> Path:
    """A workspace with a store of its own."""
    shutil.copy(fresh_store, tmp_path / "mlflow.db")
    return tmp_path


Opener = Callable[..., MlflowTracker]


@pytest.fixture
def track(workspace: Path) -> Opener:
    """Opens the workspace's run, again and again."""

    def opened(
        identity: RunIdentity = IDENTITY, settings: UploaderSettings = QUICK, run: str = "run"
    ) -> MlflowTracker:
        root = default_artifact_root(workspace)
        return MlflowTracker(workspace / run, default_uri(workspace), root, identity, settings)

    return opened


class Stored:
    """What MLflow itself says about a run, asked by its own client."""

    def __init__(self, uri: str, run_dir: Path) -> None:
        from mlflow import MlflowClient

        record = load_record(run_dir)
        assert record is not None
        assert record.run_id is not None
        self.client = MlflowClient(uri)
        self.run_id = record.run_id
        self.run: Any = self.client.get_run(record.run_id)

    def points(self, key: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.run_id, key)
        return sorted((point.step, point.value) for point in history)

    def twice(self) -> list[tuple[str, int]]:
        """Every (key, step) that is in the store more than once."""
        counts = Counter(
            (key, point.step)
            for key in self.run.data.metrics
            for point in self.client.get_metric_history(self.run_id, key)
        )
        return [place for place, count in counts.items() if count > 1]

    def files(self, folder: str) -> list[str]:
        return [item.path for item in self.client.list_artifacts(self.run_id, folder)]

    def text(self, path: str) -> str:
        return Path(self.client.download_artifacts(self.run_id, path)).read_text()


@pytest.fixture
def stored(workspace: Path) -> Callable[..., Stored]:
    """Reads a run of the workspace back from its store."""

    def read(run: str = "run", uri: str | None = None) -> Stored:
        return Stored(uri or default_uri(workspace), workspace / run)

    return read
