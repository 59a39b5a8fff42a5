"""Who else does a run: others' signs of life in a real store that two workspaces share."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.launching.runs import taken_elsewhere
from workbench.runs.spec import RunSpec
from workbench.runs.state import SILENT_SECONDS, RunState, state_of
from workbench.tracking import (
    SEEN_ALIVE,
    MlflowTracker,
    RunIdentity,
    RunRow,
    UploaderSettings,
    default_uri,
    list_runs,
)
from workbench.training.config import RunConfig
from workbench.workspace import Workspace, open_workspace

CONFIG = RunConfig(experiment="asked")
QUICK = UploaderSettings(
    interval=0.05, finish_timeout=60.0, system_interval=0.0, sign_interval=0.05
)


@pytest.fixture
def place(tmp_path: Path, fresh_store: Path) -> Workspace:
    workspace = open_workspace(tmp_path / "workspace")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    return workspace


@pytest.fixture
def going_on(place: Workspace) -> Iterator[MlflowTracker]:
    """A run of CONFIG that another machine does, into the store of its workspace."""
    tags = {"experiment": "asked", "config": CONFIG.fingerprint(), "host": "far"}
    identity = RunIdentity("asked", "default-seed0", {}, tags)
    tracker = MlflowTracker(place.root / "run", default_uri(place.root), None, identity, QUICK)
    assert tracker.flush(60.0)
    yield tracker
    tracker.finish("KILLED")


def only(uri: str, ready: Callable[[RunRow], bool] = lambda row: True) -> RunRow:
    """The store's one run, as soon as it is as awaited."""
    deadline = time.monotonic() + 30
    while True:
        (row,) = list_runs(uri, "asked")
        if ready(row) or time.monotonic() > deadline:
            return row
        time.sleep(0.05)


def test_a_run_is_left_to_a_machine_that_gives_signs_of_life_and_taken_from_one_that_died(
    place: Workspace, going_on: MlflowTracker, tmp_path: Path
) -> None:
    uri, here = default_uri(place.root), open_workspace(tmp_path / "here")
    first = only(uri).tags[SEEN_ALIVE]
    renewed = only(uri, lambda row: row.tags[SEEN_ALIVE] != first)
    assert float(renewed.tags[SEEN_ALIVE]) == pytest.approx(time.time(), abs=5)
    assert state_of(renewed) is RunState.RUNNING
    spec = RunSpec(CONFIG, here, uri)
    taken = taken_elsewhere(spec)
    assert taken is not None
    assert taken.run_id == renewed.run_id
    assert taken_elsewhere(replace(spec, config=CONFIG.model_copy(update={"seed": 1}))) is None

    def after(silence: float) -> RunState:
        tags: dict[str, Any] = {**renewed.tags, SEEN_ALIVE: str(int(time.time() - silence))}
        return state_of(replace(renewed, tags=tags))

    assert after(SILENT_SECONDS - 60) is RunState.RUNNING
    assert after(SILENT_SECONDS + 60) is RunState.INTERRUPTED


def test_a_run_that_never_gave_a_sign_is_what_the_store_says() -> None:
    row = RunRow("1", "r", "asked", "1", "RUNNING", 0, None, {}, {"host": "far"}, {})
    assert state_of(row) is RunState.RUNNING
