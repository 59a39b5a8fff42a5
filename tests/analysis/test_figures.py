"""`workbench figures`: every script that has something to draw, kept in MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.populate import populate
from workbench.cli.main import app
from workbench.errors import RequestError
from workbench.reports.scripts import find_scripts, plan_tasks
from workbench.tracking import default_uri, list_artifacts, list_runs
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.workspace import Workspace, open_workspace


def configs(experiment: str, variants: dict[str, str]) -> list[RunConfig]:
    return [
        RunConfig(
            experiment=experiment,
            variant=variant,
            teacher=teacher,
            training=TrainingConfig(kimg=12.8),
            schedule=ScheduleConfig(evaluate_kimg=6.4),
        )
        for variant, teacher in variants.items()
    ]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    workspace = open_workspace(tmp_path_factory.mktemp("figures"))
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    made = configs("nine_teachers", {"sana-0.6b": "digits-sana", "sd3-medium": "digits-sd3"})
    made += configs("mine", {"a": "digits-sana", "b": "digits-sana"})
    made += configs("alone", {"a": "digits-sana"})
    populate(default_uri(workspace.root), workspace, made, folders=False)
    return workspace


def test_every_script_with_data_is_run_and_kept(tracked: Workspace, tmp_path: Path) -> None:
    where = ["--workspace", str(tracked.root), "--out", str(tmp_path / "out"), "--format", "svg"]
    done = CliRunner().invoke(app, ["figures", *where, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    outcomes = {script["name"]: script for script in found["scripts"]}
    drawn = {name for name, outcome in outcomes.items() if outcome["files"]}
    assert {"fid_curves", "schedule_density", "tables"} <= drawn
    assert {"variants_mine", "variants_nine_teachers"} <= drawn
    assert "variants_alone" not in outcomes  # nothing to compare
    for name, outcome in outcomes.items():
        assert bool(outcome["files"]) != bool(outcome["skipped"]), name
    uri = default_uri(tracked.root)
    kept = list_artifacts(uri, found["run_id"])
    written = [Path(path) for outcome in outcomes.values() for path in outcome["files"]]
    assert sorted(kept) == sorted(path.name for path in written)
    assert all(path.stat().st_size > 0 for path in written)
    curves = pd.read_csv(tmp_path / "out" / "fid_curves.csv")
    assert list(dict.fromkeys(curves["label"])) == ["sana-0.6b", "sd3-medium"]
    (row,) = list_runs(uri, "figures")
    assert (row.run_id, row.status, row.tags["kind"]) == (found["run_id"], "FINISHED", "figures")


def test_an_experiment_narrows_what_is_drawn(tracked: Workspace) -> None:
    rows = list_runs(default_uri(tracked.root), limit=1000)
    names = [task.name for task in plan_tasks(rows, ["mine"]) if task.skip is None]
    assert names == ["variants_mine"]
    nine = [task.name for task in plan_tasks(rows, ["nine_teachers"]) if task.skip is None]
    assert {"fid_curves", "tables", "variants_nine_teachers"} <= set(nine)
    assert "schedule_density" not in nine
    with pytest.raises(RequestError, match="Did you mean 'nine_teachers'"):
        plan_tasks(rows, ["nine_teacher"])


def test_an_empty_store_still_gives_figure_2_and_says_why_the_rest_is_missing() -> None:
    tasks = plan_tasks([])
    assert [task.name for task in tasks if task.skip is None] == ["schedule_density"]
    skipped = {task.name: task.skip for task in tasks if task.skip is not None}
    assert skipped["fid_curves"] == "the store has no evaluated run of nine_teachers"


def test_every_script_takes_the_shared_options() -> None:
    scripts = find_scripts()
    assert {"fid_curves", "samples", "schedule_density", "tables", "variants"} <= set(scripts)
    for name, script in scripts.items():
        assert script.name == name
        text = script.parser().format_help()
        for option in ("--out", "--format", "--csv", "--style", "--workspace", "--tracking-uri"):
            assert option in text, name


@pytest.mark.parametrize("options", [["--format", "pgn"], ["--style", "papr"]])
def test_wrong_options_are_refused_before_anything_is_drawn(
    tracked: Workspace, options: list[str]
) -> None:
    done = CliRunner().invoke(app, ["figures", "--workspace", str(tracked.root), *options])
    assert isinstance(done.exception, RequestError)
    assert "Did you mean" in str(done.exception)
