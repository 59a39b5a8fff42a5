"""Runs of changed plans: told by their changes, and aside while the plan's own are there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.populate import Shape, populate
from tests.reports.conftest import MakeRow
from workbench.errors import RequestError
from workbench.registry import Experiment, Plan, make_plan, register
from workbench.reports import Selection, compare, make_groups, select
from workbench.reports.page import ReportRequest, write_report
from workbench.tracking import default_uri, list_runs, read_artifact
from workbench.tracking.store import open_store
from workbench.workspace import Workspace, open_workspace

SHORT = ("training.kimg=6.4",)
CURVE = [(0, 2.0), (1, 1.0)]


def experiment(low: float = 1.0) -> Experiment:
    variants = {
        name: {"method.sid_alpha": alpha, "training.kimg": 12.8}
        for name, alpha in {"low": low, "high": 1.2}.items()
    }
    return Experiment("alpha", "Which?", "None.", variants)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """One version before, the plan's own runs, then a short trial of it and one on a teacher."""
    workspace = open_workspace(tmp_path_factory.mktemp("planned") / "workspace")
    shutil.copy(fresh_store, workspace.root)
    uri = default_uri(workspace.root)
    before, plan = make_plan(experiment(low=0.5)), make_plan(experiment())
    short, other = make_plan(experiment(), SHORT), make_plan(experiment(), ["teacher=digits-sd3"])
    register(before, [0], workspace, uri)
    register(plan, [0, 1], workspace, uri, new_version=True)
    register(short, [0], workspace, uri)
    register(other, [0], workspace, uri)
    runs = [before.config("low", 0)]
    runs += [plan.config(name, seed) for name in ("low", "high") for seed in (0, 1)]
    runs += [short.config("low", 0), short.config("high", 0), other.config("low", 0)]
    populate(uri, workspace, runs)
    return workspace


def ask(place: Workspace, *references: str, changed: bool = False) -> Selection:
    return select(default_uri(place.root), place, references, changed=changed)


def labels(selection: Selection) -> dict[str, tuple[int, ...]]:
    return {group.label: group.seeds for group in selection.groups}


OWN = {"low (older: method.sid_alpha=0.5)": (0,), "low": (0, 1), "high": (0, 1)}


def test_a_short_trial_bounds_no_comparison(place: Workspace) -> None:
    found = ask(place, "alpha")
    assert labels(found) == OWN
    assert compare(found).kimg == 12.8
    told = "2 with --set training.kimg=6.4, 1 with --teacher digits-sd3"
    note = f"Runs of changed plans are left out: {told}. `workbench compare --all` shows them too."
    assert found.notes == (note,)
    assert labels(ask(place, "alpha/high")) == {"high": (0, 1)}


def test_all_are_told_apart_by_what_was_changed(place: Workspace) -> None:
    found = ask(place, "alpha", changed=True)
    assert labels(found) == {
        "low (older: method.sid_alpha=0.5) on digits-sana": (0,),
        "low on digits-sana": (0, 1),
        "high": (0, 1),
        "low (training.kimg=6.4) on digits-sana": (0,),
        "high (training.kimg=6.4)": (0,),
        "low on digits-sd3": (0,),
    }
    assert found.notes == ()


def test_a_run_alone_is_never_left_out(place: Workspace) -> None:
    runs = [r for r in list_runs(default_uri(place.root), "alpha") if r.name == "high-seed0"]
    assert len(runs) == 2
    for run in runs:
        (group,) = ask(place, run.run_id).groups
        assert group.runs[0].row.run_id == run.run_id
    # A name that both have is the plan's own run first.
    assert labels(ask(place, "alpha/high-seed0")) == {"high": (0,)}
    assert len(ask(place, "alpha/high-seed0", changed=True).groups) == 2


def test_where_nothing_else_is_finished_changed_plans_are_compared(
    tmp_path: Path, fresh_store: Path
) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    shutil.copy(fresh_store, workspace.root)
    uri = default_uri(workspace.root)
    plan, short = make_plan(experiment()), make_plan(experiment(), SHORT)
    for each in (plan, short):
        register(each, [0], workspace, uri)
    populate(uri, workspace, [short.config("low", 0)])
    assert labels(ask(workspace, "alpha")) == {"low (training.kimg=6.4)": (0,)}
    populate(uri, workspace, [plan.config("low", 0)], {"low": Shape(reached=0.5)})
    found = ask(workspace, "alpha")
    assert labels(found) == {"low (training.kimg=6.4)": (0,), "low": (0,)}
    assert found.notes == ()


def test_a_plan_that_was_changed_by_hand_is_noted(place: Workspace, tmp_path: Path) -> None:
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(place.root, copy.root)
    uri = default_uri(copy.root)
    runs = list_runs(uri, "alpha", where="tags.kind = 'plan'")
    told = json.loads(runs[0].tags["plan"]) | {"question": "What?"}
    open_store(uri).set_tag(runs[0].run_id, "plan", json.dumps(told))
    found = ask(copy, "alpha/high")
    assert len(found.groups) == 2
    assert any("changed by hand" in note for note in found.notes)


def test_labels_of_settings_that_no_plan_has(make_row: MakeRow) -> None:
    def row(hash_: str, kimg: str) -> object:
        return make_row("a", 0, CURVE, tags={"variant_hash": hash_}, params={"training.kimg": kimg})

    rows = [row("before", "1"), row("main", "2"), row("after", "3"), row("changed", "4")]
    planned = {"main": (), "changed": ("method.x=1", "method.y=2", "training.kimg=4")}
    found = make_groups(rows, planned=planned)
    assert [group.label for group in found.groups] == [
        "a (older: training.kimg=1)",
        "a",
        "a (other: training.kimg=3)",
        "a (method.x=1, method.y=2, 1 more)",
    ]


def test_a_changed_plan_has_a_report_of_its_own(place: Workspace, tmp_path: Path) -> None:
    uri, file = default_uri(place.root), tmp_path / "page.html"
    request = ReportRequest("alpha", SHORT)
    short: Plan = make_plan(experiment(), SHORT)
    assert write_report(request, file, uri, place) == f"report/alpha-{short.key}.html"
    page = file.read_text(encoding="utf-8")
    rows = [row for row in list_runs(uri, "alpha") if "variant" in row.tags]
    shown = {row.params["training.kimg"] for row in rows if row.run_id in page}
    assert shown == {"6.4"}
    assert "plan v1 with training.kimg=6.4" in page
    assert "<code>workbench report alpha --set training.kimg=6.4</code>" in page
    plans = {row.name: row.run_id for row in list_runs(uri, "alpha") if "plan" in row.tags}
    kept = read_artifact(
        uri, plans["plan v1 with training.kimg=6.4"], f"report/{request.file_name}"
    )
    assert kept == page
    with pytest.raises(RequestError, match=r"'--set training\.kimg=7'.*without changes"):
        write_report(ReportRequest("alpha", ("training.kimg=7",)), file, uri, place)
