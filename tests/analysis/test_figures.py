"""`workbench figures`: every script that has something to draw, kept in MLflow."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.populate import populate
from workbench.cli.main import app
from workbench.errors import NoRunsError, RequestError, WorkbenchError
from workbench.plotting import Drawing, Script
from workbench.reports import scripts
from workbench.reports.figures import samples
from workbench.reports.scripts import find_scripts, plan_tasks
from workbench.teachers.analytic import ANALYTIC
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
        assert outcome["failed"] is None, name
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
    names = [task.name for task in plan_tasks(rows, tracked, ["mine"]) if task.skip is None]
    assert names == ["variants_mine"]
    nine = [task.name for task in plan_tasks(rows, tracked, ["nine_teachers"]) if task.skip is None]
    assert {"fid_curves", "tables", "variants_nine_teachers"} <= set(nine)
    assert "schedule_density" not in nine
    published = [
        replace(row, experiment="paper") for row in rows if row.experiment == "nine_teachers"
    ]
    names = [task.name for task in plan_tasks(published, tracked, ["paper"]) if task.skip is None]
    assert {"fid_curves_paper", "tables_paper"} <= set(names)
    with pytest.raises(RequestError, match="Did you mean 'nine_teachers'"):
        plan_tasks(rows, tracked, ["nine_teacher"])


def test_an_empty_store_still_gives_figure_2_and_says_why_the_rest_is_missing(
    tmp_path: Path,
) -> None:
    tasks = plan_tasks([], open_workspace(tmp_path / "w"))
    assert [task.name for task in tasks if task.skip is None] == ["schedule_density"]
    skipped = {task.name: task.skip for task in tasks if task.skip is not None}
    assert skipped["fid_curves"] == "the store has no evaluated run of nine_teachers"


def made_script(name: str, problem: Exception | None = None) -> Script:
    def draw(options: argparse.Namespace) -> Drawing:
        if problem is not None:
            raise problem
        return Drawing(texts={".txt": name})

    return Script(name, "What it shows.", draw, lacks=lambda workspace: None)


def test_a_script_that_fails_keeps_no_other_from_being_drawn_and_kept(
    tmp_path: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [
        made_script("broken", ValueError("shapes differ")),
        made_script("refused", RequestError("no finite FID")),
        made_script("waiting", NoRunsError("no run has ended")),
        made_script("whole"),
    ]
    monkeypatch.setattr(scripts, "find_scripts", lambda: {script.name: script for script in made})
    workspace = open_workspace(tmp_path / "w")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    done = CliRunner().invoke(app, ["figures", "--workspace", str(workspace.root), "--json"])
    assert isinstance(done.exception, WorkbenchError)
    assert done.exception.exit_code == 1
    assert str(done.exception).startswith("2 of 4 scripts failed (broken, refused)")
    found = json.loads(done.stdout)
    outcomes = {script["name"]: script for script in found["scripts"]}
    assert outcomes["broken"]["failed"] == "ValueError: shapes differ"
    assert outcomes["refused"]["failed"] == "no finite FID"
    assert outcomes["waiting"]["skipped"] == "no run has ended"
    assert outcomes["waiting"]["failed"] is None
    assert list_artifacts(default_uri(workspace.root), found["run_id"]) == ["whole.txt"]


def test_where_all_fail_the_command_fails_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = made_script("broken", KeyError("x"))
    monkeypatch.setattr(scripts, "find_scripts", lambda: {"broken": broken})
    monkeypatch.setattr(scripts, "list_runs", lambda *_, **__: [])
    where = ["--workspace", str(tmp_path), "--tracking-uri", "sqlite:///none.db"]
    done = CliRunner().invoke(app, ["figures", *where])
    assert isinstance(done.exception, WorkbenchError)
    assert str(done.exception) == "Nothing was drawn: 1 of 1 scripts failed (broken)."


def finish(workspace: Workspace, name: str, age: int, teacher: str = "mine") -> Path:
    folder = workspace.runs / "e" / name
    (folder / "checkpoints" / "nimg-1").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"teacher": teacher}))
    (folder / "results.json").write_text("{}")
    os.utime(folder / "results.json", (1000 - age, 1000 - age))
    return folder


def test_samples_are_of_the_newest_finished_run_of_images(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "w")

    def planned() -> str | None:
        (task,) = [task for task in plan_tasks([], workspace) if task.name == "samples"]
        return task.skip

    assert planned() == "the workspace has no finished run with checkpoints"
    with pytest.raises(RequestError, match="no finished run to draw: name models with --model"):
        samples._default(workspace)
    finish(workspace, "old", age=9)
    finish(workspace, "newer", age=5, teacher="digits-sana")
    finish(workspace, "points", age=1, teacher=next(iter(ANALYTIC)))
    (finish(workspace, "swept", age=2) / "checkpoints" / "nimg-1").rmdir()
    (finish(workspace, "going", age=0) / "results.json").unlink()
    assert planned() is None
    assert samples._default(workspace).reference == "e/newer"


def test_every_script_takes_the_shared_options() -> None:
    scripts = find_scripts()
    assert {"fid_curves", "samples", "schedule_density", "tables", "variants"} <= set(scripts)
    for name, script in scripts.items():
        assert script.name == name
        text = script.parser().format_help()
        for option in ("--out", "--format", "--csv", "--style"):
            assert option in text, name
        for option in ("workspace", "tracking-uri"):
            assert (f"--{option}" in text) == (option in script.places), name
    assert "tracking-uri" not in {*scripts["samples"].places, *scripts["analytic"].places}
    assert not scripts["schedule_density"].places


def test_wrong_formats_are_refused_before_anything_is_drawn(tracked: Workspace) -> None:
    wrong = ["--format", "pgn", "--workspace", str(tracked.root)]
    done = CliRunner().invoke(app, ["figures", *wrong])
    assert isinstance(done.exception, RequestError)
    assert "Did you mean" in str(done.exception)
