"""Creating a store, by many at once; its address without secrets."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest
import tracking_victim

from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import (
    check_uri,
    default_artifact_root,
    default_uri,
    ensure_store,
    list_runs,
    metric_history,
    redact,
)
from workbench.tracking.store import get_or_create_experiment, open_store, scrub, sqlite_path


def test_six_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    # Forked from one process that has paid for the imports, so that they really race.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tracking_victim", "mlflow.store.tracking.sqlalchemy_store"])
    gate = context.Barrier(6)
    racers = [
        context.Process(target=tracking_victim.race, args=(tmp_path, f"run{index}", gate))
        for index in range(6)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(timeout=120)
    assert [racer.exitcode for racer in racers] == [0] * 6

    rows = list_runs(default_uri(tmp_path), "shared")
    assert sorted(row.params["name"] for row in rows) == [f"run{index}" for index in range(6)]
    for row in rows:
        assert row.status == "FINISHED"
        history = metric_history(default_uri(tmp_path), row.run_id)
        assert history["step"].tolist() == list(range(200))
    assert list_runs(default_uri(tmp_path), "Default") == []


def test_a_store_of_an_older_mlflow_is_moved_and_of_a_newer_one_refused(tmp_path: Path) -> None:
    import alembic.command
    import mlflow.store.db.utils as database
    from mlflow.store.tracking.dbmodels.initial_models import Base

    uri = default_uri(tmp_path)
    engine = database.create_sqlalchemy_engine_with_retry(uri)
    Base.metadata.create_all(engine)
    config = database._get_alembic_config(uri)
    revisions = list(database.ScriptDirectory.from_config(config).walk_revisions())
    alembic.command.upgrade(config, revisions[2].revision)
    engine.dispose()
    path = sqlite_path(uri)
    assert path is not None
    assert _version(path) == revisions[2].revision

    ensure_store(uri)
    assert _version(path) == revisions[0].revision
    assert _version(path.with_name(f"mlflow.db.{revisions[2].revision}.bak")) == (
        revisions[2].revision
    )
    assert list_runs(uri) == []

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(WorkbenchError, match="newer MLflow"):
        ensure_store(uri)


def _version(path: Path) -> str:
    with sqlite3.connect(path) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_an_experiment_keeps_its_files_in_the_workspace_and_comes_back_when_deleted(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = workspace / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    root = default_artifact_root(workspace)
    client = open_store(default_uri(workspace), root)
    found = get_or_create_experiment(client, "t range / a", root)
    location = client.get_experiment(found).artifact_location
    assert Path(location.removeprefix("file://")).parent == root
    client.delete_experiment(found)
    assert get_or_create_experiment(client, "t range / a", root) == found
    assert client.get_experiment(found).lifecycle_stage == "active"
    # Two names that look alike once made safe do not share a folder.
    other = get_or_create_experiment(client, "t range _ a", root)
    assert client.get_experiment(other).artifact_location != location
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////tmp/a b/mlflow.db", "sqlite:////tmp/a b/mlflow.db"),
        ("https://host:5000/path", "https://host:5000/path"),
        ("https://me:hunter2@host:5000", "https://me:***@host:5000"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql+psycopg://me:hun/t#e?r@2@host/db", "postgresql+psycopg://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=hunter2",
            "postgresql://host/db?user=me&password=***",
        ),
        ("https://host/?access_token=hunter2&x=1", "https://host/?access_token=***&x=1"),
        ("https://:hunter2@host", "https://:***@host"),
        ("https://hunter2@host", "https://***@host"),
        ("https://hunter2:@host:5000/path", "https://***@host:5000/path"),
        ("https://***@host", "https://***@host"),
    ],
)
def test_an_address_is_shown_without_its_secrets(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_a_library_that_quotes_the_password_is_scrubbed() -> None:
    uri = "https://me:hunt%40er@host"
    text = f"cannot open {uri}/api with password 'hunt@er' or hunt%40er"
    assert scrub(text, uri) == "cannot open https://me:***@host/api with password '***' or ***"
    assert scrub("401 for hunter2", "https://hunter2@host") == "401 for ***"


@pytest.mark.parametrize("uri", ["", "mlruns", "/data/mlruns", "file:///data/mlruns", "ftp://x"])
def test_addresses_that_mlflow_does_not_take_are_refused(uri: str) -> None:
    with pytest.raises(RequestError, match="expected http"):
        check_uri(uri)
    with pytest.raises(RequestError, match="expected http"):
        list_runs(uri)


def test_the_path_behind_an_sqlite_address() -> None:
    assert sqlite_path("sqlite:////a/b.db?timeout=5") == Path("/a/b.db")
    assert sqlite_path("sqlite:///b.db") == Path.cwd() / "b.db"
    assert sqlite_path("sqlite:///:memory:") is None
    assert sqlite_path("https://host") is None
