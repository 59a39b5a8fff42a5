"""Plans: content-hashed, versioned, registered in a real store, joined with real runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.errors import RequestError
from workbench.registry import (
    Experiment,
    attach_to_plan,
    load_plan,
    make_plan,
    plan_rows,
    register,
)
from workbench.registry.plan_text import description
from workbench.registry.rows import PLAN_TAG
from workbench.registry.status import plan_status, spread
from workbench.runs.state import RunState
from workbench.tracking import (
    MlflowTracker,
    RunIdentity,
    UploaderSettings,
    default_uri,
    list_runs,
    read_artifact,
)
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.workspace import Workspace, open_workspace

QUICK = UploaderSettings(interval=0.05, finish_timeout=60.0, system_interval=0.0)


RANGE = "method.t_range"


def experiment(**variants: dict[str, Any]) -> Experiment:
    chosen = variants or {"low": {RANGE: [0.0, 0.5]}, "high": {RANGE: [0.5, 1.0]}}
    return Experiment("asked", "Which?", "The low one.", chosen)


def registered(place: Workspace, experiment: Experiment, *seeds: int, **more: Any) -> Any:
    plan = make_plan(experiment, more.pop("changes", ()))
    return register(plan, seeds, place, default_uri(place.root), **more)


def test_a_plan_is_written_once_and_grows(place: Workspace) -> None:
    uri = default_uri(place.root)
    first = registered(place, experiment(), 0, 1)
    assert first.plan.version == 1
    assert registered(place, experiment(), 1) == first
    more = registered(place, experiment(), 2)
    assert (more.seeds, more.run_id, more.plan) == ((0, 1, 2), first.run_id, first.plan)
    grown = experiment(low={RANGE: [0.0, 0.5]}, new={})
    assert list(registered(place, grown, 0).plan.variants) == ["low", "high", "new"]
    (row,) = plan_rows(list_runs(uri, "asked"))
    assert (row.version, row.seeds, list(row.hashes)) == (1, (0, 1, 2), ["low", "high", "new"])
    stored = load_plan(uri, "asked")
    assert stored.variants["low"].method.t_range == (0.0, 0.5)
    assert stored.hashes == row.hashes


def test_other_settings_under_a_name_need_a_new_version(place: Workspace) -> None:
    old = registered(place, experiment(), 0)
    changed = experiment(low={RANGE: [0.0, 0.4]}, high={RANGE: [0.5, 1.0]})
    with pytest.raises(RequestError, match=r"low: method.t_range \[0.0, 0.5\] -> \[0.0, 0.4\]"):
        registered(place, changed, 0)
    new = registered(place, changed, 0, new_version=True)
    assert new.plan.version == 2
    assert new.run_id != old.run_id
    (row,) = plan_rows(list_runs(default_uri(place.root), "asked"))
    assert (row.version, row.hashes["high"]) == (2, old.plan.hashes["high"])
    # Another machine's file with the first version's settings is refused as well.
    with pytest.raises(RequestError, match="version 2 with other settings"):
        registered(place, experiment(), 0)


def test_changes_make_a_plan_of_their_own(place: Workspace) -> None:
    registered(place, experiment(), 0)
    tried = registered(place, experiment(), 0, changes=["training.kimg=1", "training.kimg=2"])
    assert tried.plan.changes == ("training.kimg=2",)
    rows = plan_rows(list_runs(default_uri(place.root), "asked"))
    assert [row.changes for row in rows] == [(), ("training.kimg=2",)]


def test_a_second_workspace_continues_the_same_plan(
    place: Workspace, tmp_path: Path, fresh_store: Path
) -> None:
    uri = default_uri(place.root)
    first = registered(place, experiment(), 0)
    other = open_workspace(tmp_path / "other")
    second = register(make_plan(experiment()), (1,), other, uri)
    assert (second.run_id, second.seeds) == (first.run_id, (0, 1))
    (row,) = plan_rows(list_runs(uri, "asked"))
    assert row.seeds == (0, 1)
    # What one adds the other keeps, and neither gives a name of the other's new settings.
    grown = make_plan(experiment(low={RANGE: [0.0, 0.5]}, new={"method.sid_alpha": 1.2}))
    register(grown, (2,), other, uri)
    again = registered(place, experiment(), 3)
    assert again.seeds == (0, 1, 2, 3)
    assert list(again.plan.variants) == ["low", "high", "new"]
    with pytest.raises(RequestError, match=r"new: method.sid_alpha 1.2 -> 1.0"):
        registered(place, experiment(new={}), 0)


def test_a_plan_deleted_in_the_store_is_written_again(place: Workspace) -> None:
    from mlflow import MlflowClient

    uri = default_uri(place.root)
    first = registered(place, experiment(), 0)
    MlflowClient(uri).delete_run(first.run_id)
    assert plan_rows(list_runs(uri, "asked")) == []
    registered(place, experiment(), 0)
    (row,) = plan_rows(list_runs(uri, "asked"))
    assert row.hashes == first.plan.hashes


@pytest.mark.parametrize("change", ["seed=3", "variant=z"])
def test_names_and_seeds_are_no_settings_of_a_plan(change: str) -> None:
    with pytest.raises(RequestError, match="--seed"):
        make_plan(experiment(), [change])


def test_a_change_of_some_methods_leaves_the_others_as_they_are() -> None:
    rivals = experiment(
        free={},
        adversarial={
            "method.name": "sid2a",
            "method.adversarial.generator_start_kimg": 0.64,
            "method.adversarial.adversarial_start_kimg": 1.28,
        },
        regression={"method.name": "kd"},
    )
    before = make_plan(rivals)
    changes = [
        "method.adversarial.fake_weight=0.5",
        "training.optimizers.fake_score.lr=1e-3",
        "data.limit=64",
        "training.kimg=51.2",
    ]
    plan = make_plan(rivals, changes)
    assert plan.untouched == {
        "data.limit=64": ["free", "regression"],
        "method.adversarial.fake_weight=0.5": ["free", "regression"],
        "training.optimizers.fake_score.lr=1e-3": ["regression"],
    }
    assert {config.training.kimg for config in plan.variants.values()} == {51.2}
    told = description(plan)
    assert "training.kimg=51.2" in told
    assert "data.limit=64 (but free, regression)" in told
    changed = plan.variants["adversarial"]
    assert (changed.method.adversarial.fake_weight, changed.data.limit) == (0.5, 64)
    assert plan.variants["free"].training.optimizers["fake_score"].lr == 1e-3
    for name in ("free", "regression"):
        assert plan.variants[name].method == before.variants[name].method
    with pytest.raises(RequestError, match="setting of method meanflow"):
        make_plan(rivals, ["method.margin=0.1"])
    with pytest.raises(RequestError, match=r"'method\.adversarial\.fake_weight'\?"):
        make_plan(rivals, ["method.adversarail.fake_weight=0.5"])
    with pytest.raises(RequestError, match="Did you mean 'dmd'"):
        make_plan(rivals, ["method.name=dmd3", "method.margin=0.1"])
    both = make_plan(
        experiment(free={}), ["method.name=sid2a", "data.limit=64", "training.kimg=51.2"]
    )
    assert both.untouched == {}


def test_an_experiment_may_be_filed_under_another_name() -> None:
    plan = make_plan(experiment(), ["experiment=other", "training.kimg=2"])
    assert (plan.experiment, plan.changes) == ("other", ("training.kimg=2",))
    assert {config.experiment for config in plan.variants.values()} == {"other"}


def test_a_plan_edited_by_hand_is_noticed(place: Workspace) -> None:
    from mlflow import MlflowClient

    uri = default_uri(place.root)
    done = registered(place, experiment(), 0)
    (file,) = place.root.glob("plans/asked/*/plan.json")
    text = file.read_text()
    values = json.loads(text)
    values["variants"]["low"]["method"]["t_range"] = [0.0, 0.3]
    file.write_text(json.dumps(values))
    with pytest.raises(RequestError, match=r"plan.json was changed by hand \(variant 'low'"):
        registered(place, experiment(), 0)
    file.write_text(text.replace("The low one.", "The high one."))
    with pytest.raises(RequestError, match=r"changed by hand \(its text"):
        registered(place, experiment(), 0)
    file.write_text(text)
    (row,) = list_runs(uri, "asked")
    tag = row.tags[PLAN_TAG].replace("The low one.", "The high one.")
    MlflowClient(uri).set_tag(done.run_id, PLAN_TAG, tag)
    with pytest.raises(RequestError, match="its tags do not match"):
        plan_rows(list_runs(uri, "asked"))


def test_a_plan_of_an_earlier_version_is_read_and_continued(place: Workspace) -> None:
    """It has a tag for each of its facts."""
    from mlflow import MlflowClient

    uri, client = default_uri(place.root), MlflowClient(default_uri(place.root))
    done = registered(place, experiment(), 0)
    (row,) = plan_rows(list_runs(uri, "asked"))
    told = json.loads(list_runs(uri, "asked")[0].tags[PLAN_TAG])
    client.delete_tag(done.run_id, PLAN_TAG)
    for name, value in told.items():
        text = value if isinstance(value, str) else json.dumps(value)
        client.set_tag(done.run_id, f"plan.{name}", text)
    assert plan_rows(list_runs(uri, "asked")) == [row]
    assert registered(place, experiment(), 0) == done
    assert registered(place, experiment(), 1).run_id == done.run_id
    (grown,) = plan_rows(list_runs(uri, "asked"))
    assert (grown.seeds, grown.hashes) == ((0, 1), row.hashes)


def test_a_file_joins_the_plan(place: Workspace, tmp_path: Path) -> None:
    uri = default_uri(place.root)
    with pytest.raises(RequestError, match="asked is not registered"):
        attach_to_plan(uri, "asked", tmp_path / "page.html")
    done = registered(place, experiment(), 0)
    (tmp_path / "page.html").write_text("<p>verdict</p>")
    attach_to_plan(uri, "asked", tmp_path / "page.html", "report")
    assert read_artifact(uri, done.run_id, "report/page.html") == "<p>verdict</p>"


def test_status_joins_plan_and_runs_by_content(place: Workspace) -> None:
    uri = default_uri(place.root)
    plan = registered(place, experiment(), 0, 1).plan

    def track(name: str, config: RunConfig, outcome: str, **metrics: float) -> None:
        tags = {
            "variant": config.variant,
            "variant_hash": config.variant_fingerprint(),
            "seed": str(config.seed),
            "outcome": outcome,
        }
        identity = RunIdentity("asked", name, {"training.kimg": "64.0"}, tags)
        tracker = MlflowTracker(place.root / "runs" / name, uri, None, identity, QUICK)
        tracker.log_metrics({k.replace("_", "/", 1): v for k, v in metrics.items()}, 100)
        tracker.finish("FINISHED" if outcome == "finished" else "KILLED")

    done = plan.config("low", 0)
    track("a", done, "finished", eval_fid=0.5, best_fid=0.4, perf_train_seconds=60.0)
    track("b", plan.config("low", 1), "interrupted", perf_kimg=16.0, perf_images_per_s=100.0)
    track("c", plan.config("low", 7), "finished", eval_fid=0.7)
    older = with_overrides(done, ["method.t_range=[0,0.4]"])
    track("older", older, "finished", eval_fid=9.0)
    track("again", done, "failed")

    rows = list_runs(uri, "asked")
    (row,) = plan_rows(rows)
    status = plan_status(row, rows)
    cells = {(cell.variant, cell.seed): cell for cell in status.cells}
    assert {key: str(cell.state) for key, cell in cells.items()} == {
        ("low", 0): "finished",
        ("low", 1): "interrupted",
        ("low", 7): "finished",
        ("high", 0): "pending",
        ("high", 1): "pending",
    }
    assert (cells["low", 0].score, cells["low", 0].best) == (0.5, 0.4)
    assert cells["low", 1].left == pytest.approx(480)
    assert cells["high", 0].left == pytest.approx(60)
    assert status.left == pytest.approx(480 + 2 * 60)
    assert status.count(RunState.FINISHED) == 2
    assert spread([0.5, 0.7]) == pytest.approx((0.6, 0.2 / 2**0.5))
