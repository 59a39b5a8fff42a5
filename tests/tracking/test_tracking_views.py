"""The saved view of an experiment as data, and in a real store; a browser opens it elsewhere."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracking.conftest import QUICK
from workbench.errors import RequestError
from workbench.tracking import (
    Curve,
    MlflowTracker,
    RunIdentity,
    RunRow,
    curve_tags,
    default_uri,
    list_runs,
    publish_comparison,
    server_base,
)
from workbench.tracking.views import experiment_view

METRICS = {
    "eval/fid": 0.5,
    "eval/alignment": 0.9,
    "best/fid": 0.4,
    "train/generator_loss": 0.1,
    "train/score_gap": 0.3,
    "perf/kimg": 6.4,
    "perf/train_seconds": 12.0,
}


def row(
    variant: str,
    seed: int,
    teacher: str = "digits-sana",
    metrics: Mapping[str, float] = METRICS,
) -> RunRow:
    tags = {"kind": "run", "seed": str(seed), "teacher": teacher, "method": "sid"}
    tags["variant"] = variant
    name = f"{variant}-seed{seed}"
    return RunRow(name, name, "e", "1", "FINISHED", seed, None, {}, tags, metrics)


def rows(*variants: str, seeds: int = 2) -> list[RunRow]:
    return [row(variant, seed) for variant in variants for seed in range(seeds)]


def grouped_by(runs: list[RunRow]) -> list[str]:
    view = experiment_view(runs)
    keys = [key["groupByData"] for key in view["groupBy"]["groupByKeys"]]
    return keys if view["useGroupedValuesInCharts"] else []


def test_the_metric_comes_first_on_a_log_axis_and_the_best_run_on_top() -> None:
    view = experiment_view(rows("a", "b"))
    charts = {chart["metricKey"]: chart for chart in view["compareRunCharts"]}
    assert list(charts) == ["eval/fid", "eval/alignment"]
    assert [chart["scaleType"] for chart in charts.values()] == ["log", "linear"]
    assert {chart["xAxisKey"] for chart in charts.values()} == {"step"}
    assert len({chart["uuid"] for chart in charts.values()}) == 2
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/fid`", True)
    assert view["selectedColumns"] == [
        *("metrics.`best/fid`", "metrics.`eval/fid`", "metrics.`eval/alignment`"),
        *("tags.`variant`", "tags.`seed`", "tags.`teacher`"),
    ]
    sections = {each["uuid"]: each["display"] for each in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts.values()} == {"Scores"}
    assert sections == {"Scores": True, "train": True} | dict.fromkeys(
        ("best", "eval", "perf", "System metrics"), False
    )


def test_plans_and_parents_are_no_runs_to_compare() -> None:
    plan = RunRow("p", "p", "e", "1", "FINISHED", 0, None, {}, {"kind": "plan"}, {})
    study = replace(plan, tags={"kind": "study"}, metrics={"best/fid": 0.1})
    view = experiment_view([plan, study, *rows("a", "b")])
    assert view["searchFilter"] == "tags.`kind` = 'run'"
    assert {**view, "searchFilter": ""} == {**experiment_view(rows("a", "b")), "searchFilter": ""}
    foreign = [replace(run, tags={"variant": "a"}) for run in rows("a")]
    assert experiment_view(foreign)["searchFilter"] == ""


def test_another_metric_leads_and_sorts_by_what_is_good_of_it() -> None:
    view = experiment_view(rows("a", "b"), "eval/alignment")
    first = view["compareRunCharts"][0]
    assert (first["metricKey"], first["scaleType"]) == ("eval/alignment", "linear")
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`eval/alignment`", False)
    assert experiment_view(rows("a"), "train/generator_loss")["orderByAsc"]
    for metric, falls, scale in (
        ("eval/kid", True, "linear"),  # unbiased, so it may be negative
        ("eval/clip", False, "linear"),
        ("drift/saturation", False, "linear"),
        ("table/student_4_fid_clip", True, "log"),
        ("table/student_4_ms_per_image", True, "linear"),
    ):
        view = experiment_view([row("a", 0, metrics={metric: 1.0})], metric)
        assert (view["orderByAsc"], view["compareRunCharts"][0]["scaleType"]) == (falls, scale)
    with pytest.raises(RequestError, match="Did you mean 'eval/alignment'"):
        experiment_view(rows("a"), "eval/alignmnet")


def test_what_judges_the_runs_leads_where_nobody_asks_for_another() -> None:
    """Runs on a teacher that is exact have no FID."""
    exact = {"eval/sliced_w2": 0.1, "best/sliced_w2": 0.09, "train/generator_loss": 0.1}
    runs = [row("a", 0, metrics=exact), row("b", 0, metrics=exact)]
    parent = replace(runs[0], tags={"kind": "study"}, metrics={"eval/fid": 0.1})
    for known in (runs, [parent, *runs]):
        view = experiment_view(known)
        first = view["compareRunCharts"][0]
        assert (first["metricKey"], first["scaleType"]) == ("eval/sliced_w2", "log")
        assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/sliced_w2`", True)
    with pytest.raises(RequestError, match="Unknown metric 'eval/fid'"):
        experiment_view(runs, "eval/fid")
    # What judges most of them; of as many the registry's first.
    images = [row("c", 0, metrics=METRICS), row("d", 0, metrics=METRICS)]
    assert experiment_view([*runs, images[0]])["orderByKey"] == "metrics.`best/sliced_w2`"
    assert experiment_view([*runs, *images])["orderByKey"] == "metrics.`best/fid`"


def test_a_view_of_runs_without_any_score_waits_for_the_default() -> None:
    view = experiment_view([row("a", 0, metrics={"train/generator_loss": 0.1})])
    assert [chart["metricKey"] for chart in view["compareRunCharts"]] == ["eval/fid"]
    assert view["orderByKey"] == "metrics.`best/fid`"


def test_means_are_over_seeds_only() -> None:
    assert grouped_by(rows("0-1", "0-0.5")) == ["variant"]
    assert grouped_by(rows("0-1", "0-0.5", seeds=1)) == []
    mixed = [row("a", seed, teacher) for seed in (0, 1) for teacher in ("one", "two")]
    assert grouped_by(mixed) == ["teacher"]
    assert grouped_by([*mixed, *rows("b")]) == ["variant", "teacher"]


def test_an_axis_reaches_as_far_as_its_values_and_not_to_zero() -> None:
    scores = {"fid": (2.0, 0.5), "alignment": (0.98, 0.94)}
    curve = curve_tags(Curve((0, 6400), (1.0, 2.0), scores))
    broken = curve_tags(Curve((0, 6400), (1.0, 2.0), {"alignment": (math.nan, 0.9)}))
    runs = [replace(run, tags={**run.tags, **curve}) for run in rows("a", "b")]
    runs[0] = replace(runs[0], tags={**runs[0].tags, **broken})
    charts = {chart["metricKey"]: chart for chart in experiment_view(runs)["compareRunCharts"]}
    assert charts["eval/alignment"]["range"] == {"yMin": 0.9, "yMax": 0.98}
    assert charts["eval/fid"]["range"] == {}  # on a log axis


def test_a_published_view_is_found_whole_and_fits_a_tag(
    track: Callable[..., MlflowTracker], workspace: Path
) -> None:
    from mlflow import MlflowClient

    for variant in ("a", "b"):
        identity = RunIdentity("e", variant, {}, {"variant": variant})
        tracker = track(identity, QUICK, run=variant)
        tracker.log_metrics(METRICS | {f"eval/{i:040d}": 1.0 for i in range(100)}, 128)
        assert tracker.finish("FINISHED") == 0
    uri = default_uri(workspace)
    runs = list_runs(uri, "e")
    own = publish_comparison(uri, runs, "http://127.0.0.1:5000/")
    page = f"http://127.0.0.1:5000/#/experiments/{runs[0].experiment_id}/runs"
    assert own == f"{page}?compareRunsMode=CHART&viewStateShareKey=workbench"
    other = publish_comparison(uri, runs, "http://127.0.0.1:5000", "eval/alignment")
    assert other == f"{own}-eval-alignment"

    tags = MlflowClient(uri).get_experiment(runs[0].experiment_id).tags
    text = tags["mlflow.sharedViewState.workbench"]
    assert len(text) < 5000
    packed = base64.b64decode(json.loads(text)["state"].removeprefix("deflate;"))
    assert json.loads(zlib.decompress(packed)) == experiment_view(runs)


def test_a_server_has_a_page_and_a_database_none() -> None:
    assert server_base("https://name:p@ss@host:5000/mlflow/?token=x") == "https://host:5000/mlflow"
    assert server_base("http://host") == "http://host"
    assert server_base("sqlite:////tmp/mlflow.db") is None
    assert server_base("postgresql://name@host/mlflow") is None
