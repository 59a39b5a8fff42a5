"""Tracking into a real PostgreSQL: directly, and through a real MLflow server in front of it."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from tests.services import MlflowServer, Postgres, free_port
from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import (
    InputData,
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    check_uri,
    list_runs,
    metric_history,
    sync,
)

QUICK = UploaderSettings(interval=0.05, finish_timeout=60.0, system_interval=0.0)
Open = Callable[..., MlflowTracker]


@pytest.fixture(scope="session")
def addresses(postgres: Postgres, mlflow_on_postgres: MlflowServer) -> dict[str, str]:
    """Two ways to PostgreSQL. The first starts with an empty database."""
    direct = postgres.create_database("direct")
    return {
        "directly": direct.replace("postgres@", "postgres:hunter2@"),
        "through a server": mlflow_on_postgres.uri,
    }


@pytest.fixture(params=["directly", "through a server"])
def uri(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


@pytest.fixture
def opened(uri: str, tmp_path: Path) -> Open:
    """Opens a run of this test's experiment."""

    def tracker(experiment: str, name: str, **params: str) -> MlflowTracker:
        identity = RunIdentity(experiment, name, params, {"method": "sid"}, "What and *why*.")
        return MlflowTracker(tmp_path / name, uri, tmp_path / "artifacts", identity, QUICK)

    return tracker


def test_runs_are_written_and_read_as_in_sqlite(
    opened: Open, uri: str, tmp_path: Path, stored: Callable[..., Any]
) -> None:
    for seed in range(3):
        tracker = opened("digits", f"sid-{seed}", seed=str(seed))
        for step in range(0, 300, 100):
            tracker.log_metrics({"eval/fid": 10.0 - seed - step / 100, "odd": math.nan}, step)
            tracker.log_image("grid", PIL.Image.new("RGB", (4, 4)), step)
        tracker.log_inputs(InputData.of_prompts("prompts", ["the digit 7"], "code"))
        tracker.finish("FINISHED" if seed else "KILLED")

    last = list_runs(uri, "digits", limit=2)
    assert [(row.name, row.last_scores["fid"]) for row in last] == [("sid-2", 6.0), ("sid-1", 7.0)]
    [killed] = list_runs(uri, "digits", where="params.seed = '0'")
    assert (killed.status, killed.tags["method"]) == ("KILLED", "sid")
    history = metric_history(uri, killed.run_id, ["eval/fid"])
    assert history[["step", "value"]].values.tolist() == [[0, 10.0], [100, 9.0], [200, 8.0]]
    assert metric_history(uri, killed.run_id)["key"].tolist() == ["eval/fid"] * 3 + ["odd"] * 3

    run = stored("sid-0", uri)
    assert run.run.data.tags["mlflow.note.content"] == "What and *why*."
    assert len(run.files("images")) == 6
    assert [item.dataset.name for item in run.run.inputs.dataset_inputs] == ["prompts"]
    with pytest.raises(RequestError, match=r"Did you mean 'digits'"):
        list_runs(uri, "digit")
    with pytest.raises(RequestError, match="Known: eval/fid, odd"):
        metric_history(uri, killed.run_id, ["fid"])
    with pytest.raises(RequestError):
        list_runs(uri, "digits", where="nonsense")
    kept = [path for path in (tmp_path / "sid-0").rglob("*") if path.is_file()]
    assert len(kept) > 3
    assert not any(b"hunter2" in path.read_bytes() for path in kept)


def test_postgres_killed_twice_in_the_middle_of_a_run_costs_no_point_and_doubles_none(
    opened: Open,
    uri: str,
    postgres: Postgres,
    stored: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker = opened("outage", "run")
    assert tracker.flush(60)

    def train() -> None:
        for step in range(400):
            tracker.log_metrics({"loss": 1 / (step + 1), "perf": time.monotonic()}, step)
            time.sleep(0.005)

    training = threading.Thread(target=train)
    training.start()
    try:
        time.sleep(0.4)
        postgres.kill()
        assert not tracker.flush(10)
        with pytest.raises(WorkbenchError) as refused:
            list_runs(uri, "outage")
        postgres.start()
        assert tracker.flush(60)
        time.sleep(0.2)
        postgres.restart()
    finally:
        training.join()
    assert tracker.finish("FINISHED") == 0

    run = stored(uri=uri)
    assert run.points("loss") == [(step, 1 / (step + 1)) for step in range(400)]
    assert run.twice() == []
    assert [row.status for row in list_runs(uri, "outage")] == ["FINISHED"]
    assert caplog.text.count("kept, sent later") in (1, 2)
    shown = uri.replace("hunter2", "***")
    assert str(refused.value).startswith(f"MLflow at {shown}: ")
    assert "hunter2" not in caplog.text + str(refused.value)


def test_a_database_out_of_reach_is_named_at_once_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    where = f"127.0.0.1:{free_port()}/mlflow"
    uri = f"postgresql://ada:hunter2@{where}"
    began = time.monotonic()
    with pytest.raises(WorkbenchError) as error:
        list_runs(uri)
    assert str(error.value).startswith(f"MLflow at postgresql://ada:***@{where}: ")
    assert "\n" not in str(error.value)

    settings = UploaderSettings(interval=0.05, finish_timeout=1.0, system_interval=0.0)
    tracker = MlflowTracker(tmp_path / "run", uri, None, RunIdentity("digits", "run"), settings)
    tracker.log_metrics({"loss": 1.0}, 0)
    assert tracker.finish("FINISHED") == 5
    # MLflow itself would try for 101 s, and print why each time.
    assert time.monotonic() - began < 10
    assert f"postgresql://ada:***@{where}" in caplog.text
    assert "hunter2" not in caplog.text + "".join(capfd.readouterr())
    with pytest.raises(RequestError, match="name the address once more"):
        sync(tmp_path / "run")


def test_a_missing_driver_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for uri in ("postgresql://ada:hunter2@host/db", "postgresql+psycopg://ada:hunter2@host/db"):
        with pytest.raises(RequestError, match=r"pip install 'workbench-sid\[postgres\]'") as error:
            MlflowTracker(tmp_path, uri, None, RunIdentity("digits", "run"))
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("uri", ["postgresql://me@host:port/db", "postgresql+oracle://me@host/db"])
def test_a_database_address_that_cannot_be_read_is_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="expected postgresql://USER@HOST:PORT/DATABASE"):
        check_uri(uri)
