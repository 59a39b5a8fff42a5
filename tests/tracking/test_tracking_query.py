"""Reading runs back, and addresses inside the UI."""

from __future__ import annotations

import base64
import json
import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.populate import Shape, populate
from tests.services import MlflowServer, Postgres
from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    RunRow,
    compare_address,
    default_uri,
    experiment_address,
    list_runs,
    metric_history,
    rest,
    run_address,
    server_environment,
)
from workbench.tracking.rows import ended, shown_metrics, shown_tags
from workbench.tracking.store import open_store
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.workspace import open_workspace


@pytest.fixture
def three_runs(track: Callable[..., MlflowTracker], workspace: Path) -> str:
    """Runs a0, a1 of experiment "a" and b0 of "b", with FID 30, 31 and 32 at the end."""
    for index, (experiment, name) in enumerate([("a", "a0"), ("a", "a1"), ("b", "b0")]):
        identity = RunIdentity(experiment, name, {"seed": str(index)}, {"method": "sid"})
        tracker = track(identity, run=name)
        tracker.log_metrics({"eval/fid": 50.0, "best/fid": 50.0, "system/cpu": 1.0}, 128)
        tracker.log_metrics({"eval/fid": 30.0 + index, "best/fid": 20.0 + index}, 256)
        tracker.finish("FINISHED" if index else "FAILED")
    return default_uri(workspace)


def test_runs_are_listed_filtered_and_limited(three_runs: str) -> None:
    assert [row.name for row in list_runs(three_runs)] == ["b0", "a1", "a0"]
    assert [row.name for row in list_runs(three_runs, limit=2)] == ["b0", "a1"]
    assert [row.name for row in list_runs(three_runs, "a")] == ["a1", "a0"]
    [row] = list_runs(three_runs, where="tags.method = 'sid' and params.`seed` = '0'")
    assert (row.name, row.experiment, row.status) == ("a0", "a", "FAILED")
    assert row.params == {"seed": "0"}
    assert row.last_scores == {"fid": 30.0}
    assert row.best_scores == {"fid": 20.0}
    assert row.metrics == {"eval/fid": 30.0, "best/fid": 20.0}
    assert row.tags["method"] == "sid"
    assert row.end_time is not None
    assert row.end_time >= row.start_time


QUESTIONS: tuple[tuple[str | None, int, str], ...] = (
    ("filled", 1000, ""),
    ("filled", 3, ""),
    (None, 1000, ""),
    ("filled", 1000, "tags.variant = 'slow' AND params.seed = '1'"),
    ("filled", 1000, "tags.`variant` = 'slow and fast'"),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Fills a store with six runs: finished, going on, measuring NaN, and one deleted."""

    def fill(uri: str) -> str:
        names = [f"{variant}/{seed}" for variant in ("quick", "slow") for seed in range(3)]
        configs = [
            with_overrides(RunConfig(), ["experiment=filled", f"variant={v}", f"seed={s}"])
            for v, s in (name.split("/") for name in names)
        ]
        place = open_workspace(tmp_path_factory.mktemp("filled") / "workspace")
        made = populate(uri, place, configs, {"slow": Shape(reached=0.4)}, folders=False)
        store = open_store(uri)
        store.log_metric(made[1], "eval/nothing", math.nan, step=1)
        store.log_metric(made[1], "eval/much", math.inf, step=1)
        store.set_tag(made[1], "odd", 'it\'s "ä" 100 %')
        store.delete_run(made[2])
        return uri

    return fill


def plain(rows: list[RunRow]) -> list[dict[str, Any]]:
    """Rows that compare equal where both hold NaN."""
    return [
        {**vars(row), "metrics": {key: repr(v) for key, v in row.metrics.items()}} for row in rows
    ]


def of_mlflow(uri: str, experiment: str | None, limit: int, where: str) -> list[RunRow]:
    """The same rows by MLflow's own client."""
    client = open_store(uri)
    names = {found.experiment_id: found.name for found in client.search_experiments()}
    wanted = [key for key, name in names.items() if experiment in (None, name)]
    found = client.search_runs(wanted, where, max_results=limit)
    return [
        RunRow(
            run_id=run.info.run_id,
            name=run.info.run_name,
            experiment=names[run.info.experiment_id],
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            start_time=run.info.start_time,
            end_time=ended(run.info.status, run.info.end_time),
            params=run.data.params,
            tags=shown_tags(run.data.tags),
            metrics=shown_metrics(run.data.metrics),
        )
        for run in found
    ]


@pytest.mark.parametrize("store", ["sqlite", "postgresql", "server"])
def test_every_store_gives_the_rows_that_mlflow_gives(
    store: str,
    filled: Callable[[str], str],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if store == "sqlite":
        uri = default_uri(tmp_path)
    elif store == "server":
        served: MlflowServer = request.getfixturevalue("mlflow_on_postgres")
        uri = served.uri
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        uri = postgres.create_database("rows")
    filled(uri)
    for asked in QUESTIONS:
        experiment, limit, where = asked
        found = list_runs(uri, experiment, limit=limit, where=where)
        assert plain(found) == plain(of_mlflow(uri, *asked)), asked
    rows = {row.name: row for row in list_runs(uri, "filled")}
    assert set(rows) == {"quick-seed0", "quick-seed1", "slow-seed0", "slow-seed1", "slow-seed2"}
    assert math.isnan(rows["quick-seed1"].metrics["eval/nothing"])
    assert rows["quick-seed1"].tags["odd"] == 'it\'s "ä" 100 %'
    assert rows["slow-seed0"].end_time is None
    with pytest.raises(RequestError, match="Did you mean 'filled'"):
        list_runs(uri, "filed")
    if store == "server":  # page by page, and in the way that MLflow has to go itself
        whole = plain(list_runs(uri, "filled", limit=5))
        monkeypatch.setattr(rest, "PAGE", 2)
        assert plain(list_runs(uri, "filled", limit=5)) == whole
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert plain(list_runs(uri, "filled", limit=5)) == whole


def test_a_schema_of_any_revision_is_read_and_left_as_it_is(three_runs: str) -> None:
    import sqlalchemy

    with sqlalchemy.create_engine(three_runs).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'newer'"))
        connection.execute(sqlalchemy.text("ALTER TABLE tags ADD COLUMN later VARCHAR"))
    assert len(list_runs(three_runs)) == 3


def test_a_database_without_tables_has_no_runs(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    assert list_runs(default_uri(tmp_path)) == []
    assert (tmp_path / "mlflow.db").stat().st_size == 0


class Listening(BaseHTTPRequestHandler):
    """Answers as a server without experiments, and remembers who asked."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.asked.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def test_a_server_is_asked_by_whom_the_credentials_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("USERNAME", "PASSWORD", "TOKEN")
    for name in names:
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir()
    file.write_text("[mlflow]\nmlflow_tracking_username = ada\nmlflow_tracking_password = 100%\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Listening) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        list_runs(f"http://{address}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "eve")
        list_runs(f"http://{address}")
        list_runs(f"http://bob:pw@{address}")
        file.unlink()
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
        list_runs(f"http://{address}")
        server.shutdown()
    basic = [base64.b64encode(text).decode() for text in (b"ada:100%", b"eve:100%", b"bob:pw")]
    assert Listening.asked == [*(f"Basic {text}" for text in basic), "Bearer t"]


@pytest.mark.parametrize(
    "where",
    ["metrics.`eval/fid` < 1", "tags.a = 'b' OR tags.c = 'd'", "tags.a LIKE 'b%'", "nonsense"],
)
def test_other_filters_are_refused_in_one_line(three_runs: str, where: str) -> None:
    for uri in (three_runs, "http://127.0.0.1:1"):
        with pytest.raises(RequestError, match=r"expected tags\.NAME = 'VALUE'"):
            list_runs(uri, where=where)


def test_a_history_holds_every_point(three_runs: str) -> None:
    run_id = list_runs(three_runs, "b")[0].run_id
    frame = metric_history(three_runs, run_id)
    assert frame.columns.tolist() == ["key", "step", "value", "timestamp"]
    assert frame[["key", "step", "value"]].to_numpy().tolist() == [
        ["best/fid", 128, 50.0],
        ["best/fid", 256, 22.0],
        ["eval/fid", 128, 50.0],
        ["eval/fid", 256, 32.0],
    ]
    assert metric_history(three_runs, run_id, ["system/cpu"])["value"].tolist() == [1.0]
    assert metric_history(three_runs, run_id, []).empty


def test_unknown_names_say_what_is_known(three_runs: str) -> None:
    run_id = list_runs(three_runs, "b")[0].run_id
    with pytest.raises(RequestError, match=r"experiment 'c'.*Known: Default, a, b"):
        list_runs(three_runs, "c")
    with pytest.raises(RequestError, match=f"Did you mean '{run_id}'"):
        metric_history(three_runs, run_id[:-1])
    with pytest.raises(RequestError, match="Unknown run"):
        metric_history(three_runs, "not a run id!")
    with pytest.raises(RequestError, match="Did you mean 'eval/fid'"):
        metric_history(three_runs, run_id, ["eval/fi"])


def test_a_store_that_is_not_there_is_empty_and_stays_away(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    assert list_runs(uri) == []
    with pytest.raises(RequestError, match="Known: none"):
        list_runs(uri, "a")
    with pytest.raises(RequestError, match="Unknown run"):
        metric_history(uri, "abc")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_does_not_answer_is_one_clear_line() -> None:
    with pytest.raises(WorkbenchError, match=r"MLflow at http://me:\*\*\*@127.0.0.1:1: ") as caught:
        list_runs("http://me:hunter2@127.0.0.1:1")
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def _query(address: str) -> tuple[str, dict[str, Any]]:
    parts = urlsplit(urlsplit(address).fragment)
    return parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()}


def test_addresses_carry_their_names_unharmed() -> None:
    base = "http://127.0.0.1:5000/"
    path, fields = _query(compare_address(base, ["1", "2"], ["ab", "cd"]))
    assert path == "/compare-runs"
    assert json.loads(fields["runs"]) == ["ab", "cd"]
    assert json.loads(fields["experiments"]) == ["1", "2"]

    assert run_address(base, "1", "ab") == "http://127.0.0.1:5000/#/experiments/1/runs/ab"
    assert experiment_address(base, "1", charts=True).endswith("/1/runs?compareRunsMode=CHART")


def test_a_server_is_not_served_again() -> None:
    with pytest.raises(RequestError, match="server already"):
        server_environment("http://host")
