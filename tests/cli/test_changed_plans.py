"""`compare` and `report` of an experiment that was also run with --set and on another teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import InsideWorkbench
from tests.populate import populate
from workbench.registry import get_experiment, make_plan
from workbench.tracking import default_uri
from workbench.workspace import Workspace

CHANGES = ((), ("training.kimg=3.2",), ("teacher=digits-sd3",))


@pytest.fixture
def ran(prepared: InsideWorkbench) -> InsideWorkbench:
    """noise_type as it is, short, and on another teacher: a run of each."""
    place = Workspace(prepared.workspace)
    prepared("experiments", "register", "noise_type")
    prepared("experiments", "register", "noise_type", "--set", "training.kimg=3.2")
    prepared("experiments", "register", "noise_type", "--teacher", "digits-sd3")
    plans = [make_plan(get_experiment("noise_type"), changes) for changes in CHANGES]
    populate(default_uri(place.root), place, [plan.config("fresh", 0) for plan in plans])
    return prepared


def test_compare_has_them_on_request_and_report_one_by_one(ran: InsideWorkbench) -> None:
    alone = ran.json("compare", "noise_type")
    assert ([group["label"] for group in alone["groups"]], alone["kimg"]) == (["fresh"], 12.8)
    assert any("compare --all" in note for note in alone["notes"])
    every = ran.json("compare", "noise_type", "--all")
    assert {group["label"] for group in every["groups"]} == {
        "fresh on digits-sana",
        "fresh (training.kimg=3.2) on digits-sana",
        "fresh on digits-sd3",
    }
    reports = [
        ran.json("report", "noise_type", *options)
        for options in ([], ["--set", "training.kimg=3.2"], ["--teacher", "digits-sd3"])
    ]
    assert len({report["report"] for report in reports}) == 3
    titles = ("plan v1", "plan v1 with training.kimg=3.2", "plan v1 with teacher=digits-sd3")
    for report, title in zip(reports, titles, strict=True):
        page = Path(report["report"]).read_text(encoding="utf-8")
        assert f"noise_type · {title} ·" in page
    told = ran("report", "noise_type", "--set", "training.kimg=3.3", code=2).stderr
    assert "'--set training.kimg=3.3'. Did you mean '--set training.kimg=3.2'?" in told
    assert "seeds come from --seed" in ran("report", "noise_type", "--set", "seed=1", code=2).stderr
