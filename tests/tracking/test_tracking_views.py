"""The saved view of an experiment as data, and in a real store; a browser opens it elsewhere."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.conftest import QUICK
from workbench.errors import RequestError
from workbench.tracking import (
    CURVE_TAG,
    Curve,
    MlflowTracker,
    RunIdentity,
    RunRow,
    default_uri,
    experiment_view,
    list_runs,
    publish_comparison,
    publish_view,
    server_base,
    variant_tags,
    view_address,
)
from workbench.tracking.curve import encode_curve
from workbench.tracking.view_colors import missing_colors

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
    tags |= variant_tags(variant)
    name = f"{variant}-seed{seed}"
    return RunRow(name, name, "e", "1", "FINISHED", seed, None, {}, tags, metrics)


def rows(*variants: str, seeds: int = 2) -> list[RunRow]:
    return [row(variant, seed) for variant in variants for seed in range(seeds)]


def grouped_by(runs: list[RunRow]) -> list[str]:
    groups = experiment_view(runs)["groupBy"]
    return [key["groupByData"] for key in groups["groupByKeys"]] if groups else []


def test_the_metric_comes_first_on_a_log_axis_and_the_best_run_on_top() -> None:
    view = experiment_view(rows("a", "b"))
    charts = {chart["metricKey"]: chart for chart in view["compareRunCharts"]}
    assert list(charts) == ["eval/fid", "eval/alignment", "train/generator_loss"]
    assert [chart["scaleType"] for chart in charts.values()] == ["log", "linear", "linear"]
    assert {chart["xAxisKey"] for chart in charts.values()} == {"step"}
    assert len({chart["uuid"] for chart in charts.values()}) == 3
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`best/fid`", True)
    assert view["selectedColumns"] == [
        *("metrics.`best/fid`", "metrics.`eval/fid`", "metrics.`eval/alignment`"),
        "metrics.`perf/train_seconds`",
        *("tags.`variant`", "tags.`seed`", "tags.`teacher`"),
    ]
    sections = {each["uuid"]: each["display"] for each in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts.values()} == {"Scores", "Losses"}
    assert sections == {"Scores": True, "Losses": True} | dict.fromkeys(
        ("best", "perf", "train", "System metrics"), False
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


def test_the_view_of_what_judges_the_runs_is_the_experiments_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved: dict[str, Any] = {}

    def save(uri: str, experiment: str, key: str, view: dict[str, Any], name: str) -> None:
        saved[key] = (name, view)

    monkeypatch.setattr("workbench.tracking.views.publish_view", save)
    monkeypatch.setattr("workbench.tracking.views.color_runs", lambda *_: None)
    exact = {"eval/sliced_w2": 0.1, "best/sliced_w2": 0.09, "eval/other": 1.0}
    runs = [row("a", 0, metrics=exact)]
    key = publish_comparison("uri", runs)
    assert saved[key] == ("workbench: eval/sliced_w2", experiment_view(runs))
    parent = replace(runs[0], tags={"kind": "study"}, metrics={"eval/fid": 0.1})
    assert key == publish_comparison("uri", [parent, *runs, *runs])
    assert saved[key][0] == "workbench: eval/sliced_w2"
    assert key == publish_comparison("uri", rows("a"))
    assert key == publish_comparison("uri", runs, "eval/sliced_w2")
    assert key != publish_comparison("uri", runs, "eval/other")


def test_a_view_of_runs_without_any_score_waits_for_the_default() -> None:
    view = experiment_view([row("a", 0, metrics={"train/generator_loss": 0.1})])
    assert [c["metricKey"] for c in view["compareRunCharts"] if c["type"] == "LINE"] == [
        *("eval/fid", "train/generator_loss")
    ]
    assert view["orderByKey"] == "metrics.`best/fid`"


def test_means_are_over_seeds_only_and_every_group_has_a_colour_of_its_own() -> None:
    assert grouped_by(rows("0-1", "0-0.5")) == ["variant"]
    assert grouped_by(rows("0-1", "0-0.5", seeds=1)) == []
    # These two hash to one colour under "variant".
    assert grouped_by(rows("sid", "1-t_over_t_sq")) == ["arm"]
    mixed = [row("a", seed, teacher) for seed in (0, 1) for teacher in ("one", "two")]
    assert grouped_by(mixed) in (["variant", "teacher"], ["variant", "teacher", "method"])
    # More groups than colours: seeds are drawn one by one, in the runs' own colours.
    many = experiment_view(rows(*(f"v{i}" for i in range(30))))
    assert not many["useGroupedValuesInCharts"]
    assert many["runsHiddenMode"] == "FIRST_20_RUNS"


def test_single_runs_show_their_samples_at_the_last_evaluation() -> None:
    runs = rows("a", "b", seeds=1)
    curve = encode_curve(Curve((0, 6400), (1.0, 2.0), {"fid": (2.0, 0.5)}))
    runs = [replace(run, tags={**run.tags, CURVE_TAG: curve}) for run in runs]
    images = [c for c in experiment_view(runs)["compareRunCharts"] if c["type"] == "IMAGE"]
    assert [(c["imageKeys"], c["step"]) for c in images] == [(["samples/student"], 6400)]


def test_an_axis_reaches_as_far_as_its_values_and_not_to_zero() -> None:
    scores = {"fid": (2.0, 0.5), "alignment": (0.98, 0.94)}
    curve = encode_curve(Curve((0, 6400), (1.0, 2.0), scores))
    broken = encode_curve(Curve((0, 6400), (1.0, 2.0), {"alignment": (math.nan, 0.9)}))
    runs = [replace(run, tags={**run.tags, CURVE_TAG: curve}) for run in rows("a", "b")]
    runs[0] = replace(runs[0], tags={**runs[0].tags, CURVE_TAG: broken})
    charts = {chart["metricKey"]: chart for chart in experiment_view(runs)["compareRunCharts"]}
    assert charts["eval/alignment"]["range"] == pytest.approx({"yMin": 0.896, "yMax": 0.984})
    # The leading one is on a log axis, and of losses no values are at hand.
    assert charts["eval/fid"]["range"] == charts["train/generator_loss"]["range"] == {}


def test_a_variant_has_one_colour_and_a_chosen_one_stays() -> None:
    tags: dict[str, dict[str, str]] = {
        "a0": {"variant": "a", "mlflow.runColor": "#0072B2"},
        **{f"{name}{seed}": {"variant": name} for name in "abcdefghijkl" for seed in (1, 2)},
        "parent": {},
    }
    added = missing_colors(tags)
    assert added.keys() == tags.keys() - {"a0", "parent"}
    assert added["a1"] == added["a2"] == "#0072B2"
    assert len(set(added.values())) == 12
    painted = {key: {**own, "mlflow.runColor": added.get(key, "")} for key, own in tags.items()}
    painted["a0"] = tags["a0"]
    assert missing_colors(painted) == {}


def test_a_published_view_is_found_whole_fits_a_tag_and_is_written_once(
    track: Callable[..., MlflowTracker], workspace: Path
) -> None:
    from mlflow import MlflowClient

    for variant in ("a", "b"):
        identity = RunIdentity("e", variant, {}, variant_tags(variant))
        tracker = track(identity, QUICK, run=variant)
        tracker.log_metrics(METRICS | {f"eval/{i:040d}": 1.0 for i in range(100)}, 128)
        assert tracker.finish("FINISHED") == 0
    uri = default_uri(workspace)
    runs = list_runs(uri, "e")
    key = publish_comparison(uri, runs)
    client = MlflowClient(uri)

    def tags() -> dict[str, Any]:
        return dict(client.get_experiment(runs[0].experiment_id).tags)

    first = tags()
    text = first[f"mlflow.sharedViewState.{key}"]
    assert len(text) < 5000
    saved = json.loads(text)
    assert (saved["name"], saved["createdAt"]) == ("workbench: eval/fid", saved["updatedAt"])
    packed = base64.b64decode(saved["state"].removeprefix("deflate;"))
    assert json.loads(zlib.decompress(packed)) == experiment_view(runs)
    found = {
        run.data.tags["variant"]: run.data.tags["mlflow.runColor"]
        for run in client.search_runs([runs[0].experiment_id])
    }
    assert found == {"a": "#0072B2", "b": "#D55E00"}

    assert publish_comparison(uri, runs) == key
    assert tags() == first
    assert publish_comparison(uri, runs, "eval/alignment") != key
    publish_view(uri, runs[0].experiment_id, key, {"groupBy": None})
    changed = json.loads(tags()[f"mlflow.sharedViewState.{key}"])
    assert (changed["name"], changed["createdAt"]) == (key, saved["createdAt"])


def test_the_address_names_the_view() -> None:
    base = "http://127.0.0.1:5000/"
    charts = "http://127.0.0.1:5000/#/experiments/7/runs?compareRunsMode=CHART&viewStateShareKey=k"
    assert view_address(base, "7", "k") == charts
    assert view_address(base, "7", "k", charts=False).endswith("/7/runs?viewStateShareKey=k")


def test_a_server_has_a_page_and_a_database_none() -> None:
    assert server_base("https://name:p@ss@host:5000/mlflow/?token=x") == "https://host:5000/mlflow"
    assert server_base("http://host") == "http://host"
    assert server_base("sqlite:////tmp/mlflow.db") is None
    assert server_base("postgresql://name@host/mlflow") is None
