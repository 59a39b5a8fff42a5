"""Reading runs back, and addresses inside the UI."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.populate import Shape, populate
from tests.services import MlflowServer, Postgres
from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    client,
    compare_address,
    database,
    default_uri,
    experiment_address,
    list_runs,
    metric_address,
    metric_history,
    rest,
    run_address,
    server_command,
)
from workbench.tracking.rows import NEWEST_FIRST, Question, RunRow
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


def test_runs_are_listed_filtered_sorted_and_limited(
    three_runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", 1)  # so that three runs take three pages
    assert [row.name for row in list_runs(three_runs)] == ["b0", "a1", "a0"]
    assert [row.name for row in list_runs(three_runs, limit=2)] == ["b0", "a1"]
    assert [row.name for row in list_runs(three_runs, "a")] == ["a1", "a0"]
    best = list_runs(three_runs, order_by="metrics.`eval/fid` ASC", limit=1)
    assert [row.name for row in best] == ["a0"]
    failed = list_runs(three_runs, where="attributes.status = 'FAILED'")
    assert [row.name for row in failed] == ["a0"]

    [row] = failed
    assert (row.experiment, row.status, row.params) == ("a", "FAILED", {"seed": "0"})
    assert row.last_scores == {"fid": 30.0}
    assert row.best_scores == {"fid": 20.0}
    assert row.metrics == {"eval/fid": 30.0, "best/fid": 20.0}
    assert row.tags["method"] == "sid"
    assert row.end_time is not None
    assert row.end_time >= row.start_time


QUESTIONS = (
    Question("filled", 1000),
    Question("filled", 3),
    Question(None, 1000),
    Question("filled", 1000, "tags.variant = 'slow' AND params.seed = '1'"),
    Question("filled", 1000, "tags.`config` = 'nobody'"),
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
        store = client.open_store(uri)
        store.log_metric(made[1], "eval/nothing", math.nan, step=1)
        store.log_metric(made[1], "eval/much", math.inf, step=1)
        store.set_tag(made[1], "odd", 'it\'s "ä" 100 %')
        store.delete_run(made[2])
        return uri

    return fill


def plain(rows: list[RunRow] | None) -> list[dict[str, Any]]:
    """Rows that compare equal where both hold NaN."""
    assert rows is not None
    return [
        {**vars(row), "metrics": {key: repr(v) for key, v in row.metrics.items()}} for row in rows
    ]


@pytest.mark.parametrize("store", ["sqlite", "postgresql", "server"])
def test_every_way_gives_the_rows_that_mlflow_gives(
    store: str, filled: Callable[[str], str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    way = rest.answer if store == "server" else database.answer
    if store == "sqlite":
        uri = default_uri(tmp_path)
    elif store == "server":
        served: MlflowServer = request.getfixturevalue("mlflow_on_postgres")
        uri = served.uri
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        uri = postgres.create_database("rows")
    filled(uri)
    for question in QUESTIONS:
        assert plain(way(uri, question)) == plain(client.answer(uri, question)), question
    rows = {row.name: row for row in list_runs(uri, "filled")}
    assert set(rows) == {"quick-seed0", "quick-seed1", "slow-seed0", "slow-seed1", "slow-seed2"}
    assert math.isnan(rows["quick-seed1"].metrics["eval/nothing"])
    assert rows["quick-seed1"].tags["odd"] == 'it\'s "ä" 100 %'
    assert rows["slow-seed0"].end_time is None
    with pytest.raises(RequestError, match="Did you mean 'filled'"):
        way(uri, Question("filed"))


def test_a_server_is_asked_page_by_page(
    mlflow_on_postgres: MlflowServer, filled: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = filled(mlflow_on_postgres.uri)
    whole = rest.answer(uri, Question("filled", 5))
    assert len(whole or []) == 5
    monkeypatch.setattr(rest, "PAGE", 2)
    assert plain(rest.answer(uri, Question("filled", 5))) == plain(whole)
    refused = r"MLflow at http://127.*Invalid.*\(HTTP 400\)"
    with pytest.raises(RequestError, match=refused):
        list_runs(uri, where="nonsense is nonsense")


@pytest.mark.parametrize(
    ("where", "order_by"),
    [
        ("metrics.`eval/fid` < 1", NEWEST_FIRST),
        ("tags.a = 'b' OR tags.c = 'd'", NEWEST_FIRST),
        ("tags.a LIKE 'b%'", NEWEST_FIRST),
        ("tags.a = 'x AND y'", NEWEST_FIRST),
        ("", "metrics.`eval/fid` ASC"),
    ],
)
def test_what_only_mlflow_understands_is_left_to_it(
    three_runs: str, where: str, order_by: str
) -> None:
    assert database.answer(three_runs, Question("a", 10, where, order_by)) is None


def test_a_schema_that_nobody_looked_at_is_left_to_mlflow(
    three_runs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(database.answer(three_runs, Question()) or []) == 3
    monkeypatch.setattr(database, "KNOWN_SCHEMAS", frozenset({"older"}))
    assert database.answer(three_runs, Question()) is None
    assert len(list_runs(three_runs)) == 3


def test_the_installed_mlflow_has_a_schema_that_was_looked_at() -> None:
    """Else every table of runs waits for MLflow: check the columns and add the revision."""
    import mlflow.store.db.utils

    assert mlflow.store.db.utils._get_latest_schema_revision() in database.KNOWN_SCHEMAS


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
    with pytest.raises(RequestError, match="Invalid"):
        list_runs(three_runs, where="nonsense is nonsense")


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

    path, fields = _query(metric_address(base, ["1"], ["ab"], "eval/fid & more"))
    assert path == "/metric"
    assert json.loads(fields["metric"]) == "eval/fid & more"
    assert json.loads(fields["plot_metric_keys"]) == ["eval/fid & more"]
    assert (fields["x_axis"], fields["y_axis_scale"]) == ("step", "log")
    assert run_address(base, "1", "ab") == "http://127.0.0.1:5000/#/experiments/1/runs/ab"
    assert experiment_address(base, "1", charts=True).endswith("/1/runs?compareRunsMode=CHART")


def test_a_server_is_not_served_again(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="server already"):
        server_command("http://host", tmp_path, 5000)
