"""docs/python.md and docs/figures.md keep their promises, and the long table loses nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import workbench
from tests.populate import Shape, populate
from workbench.errors import RequestError
from workbench.reports import ScoreComparison, compare, select
from workbench.tracking import CURVE_TAG, Curve, default_uri, list_runs, metric_history, read_curve
from workbench.tracking.curve import curve_tags
from workbench.tracking.store import open_store
from workbench.training.config import (
    GeneratorConfig,
    RunConfig,
    ScheduleConfig,
    TrainingConfig,
)
from workbench.workspace import Workspace, open_workspace

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """Two step counts of two seeds; one run of 251 evaluations, in tags of an earlier version."""
    workspace = open_workspace(tmp_path_factory.mktemp("api") / "w")
    shutil.copy(fresh_store, workspace.root / "mlflow.db")
    uri = default_uri(workspace.root)
    made = [
        RunConfig(
            experiment="step_count",
            variant=f"k{steps}",
            seed=seed,
            training=TrainingConfig(kimg=6.4),
            schedule=ScheduleConfig(evaluate_kimg=6.4),
            generator=GeneratorConfig(steps=steps),
        )
        for steps in (2, 4)
        for seed in (0, 1)
    ]
    ids = populate(uri, workspace, made, {"k2": Shape(drift={"saturation": 0.9})})
    for seed, run_id in enumerate(ids[:2]):
        key = f"evaluation/digits/kid_2steps_aaaaaaaa_seed{seed}"
        open_store(uri).log_metric(run_id, key, 0.5 + seed)
    long = RunConfig(
        experiment="long",
        training=TrainingConfig(kimg=16, batch_size=64),
        schedule=ScheduleConfig(evaluate_kimg=0.064),
    )
    (run_id,) = populate(uri, workspace, [long], folders=False)
    thin(uri, run_id)
    return workspace


def thin(uri: str, run_id: str) -> None:
    """As versions with one tag had it: every other evaluation, or more seldom, till all fit."""
    store = open_store(uri)
    (row,) = list_runs(uri, "long")
    curve, every = read_curve(row.tags), 1
    assert curve is not None
    while len(tags := curve_tags(thinned(curve, every))) > 1:
        every *= 2
    for tag in row.tags:
        if tag.startswith(CURVE_TAG):
            store.delete_tag(run_id, tag)
    store.set_tag(run_id, CURVE_TAG, tags[CURVE_TAG])


def thinned(curve: Curve, every: int) -> Curve:
    scores = {name: values[::every] for name, values in curve.scores.items()}
    return Curve(curve.nimg[::every], curve.seconds[::every], scores, curve.evaluations[::every])


@pytest.mark.parametrize("page", ["python.md", "figures.md"])
def test_the_examples_run(page: str, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_WORKSPACE", str(place.root))
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert isinstance(names["frame"], pd.DataFrame)
    assert isinstance(names.get("figure", Figure()), Figure)


def test_the_table_is_what_the_store_holds(place: Workspace) -> None:
    frame = workbench.scores("step_count", workspace=place.root)
    columns = "experiment variant seed kimg steps metric reference protocol value low high"
    assert list(frame.columns)[:11] == columns.split()
    uri = default_uri(place.root)
    for row in list_runs(uri, "step_count"):
        own = frame[frame["run"] == row.run_id]
        known = own[own["source"] != "training"].set_index("key")["value"]
        logged = {k: v for k, v in row.metrics.items() if k.startswith(("table/", "evaluation/"))}
        assert known.to_dict() == logged
        last = own[(own["source"] == "training") & (own["kimg"] == 6.4)].set_index("key")["value"]
        for key, value in last.items():
            assert value == pytest.approx(row.metrics[key], rel=1e-5)
    kid = frame[frame["source"] == "evaluate"]
    assert kid[["seed", "evaluation_seed", "steps", "protocol"]].values.tolist() == [
        [seed, seed, 2, "aaaaaaaa"] for seed in (0, 1)
    ]
    assert set(frame[frame["model"] == "teacher"]["source"]) == {"table"}


def test_a_comparison_is_the_commands(place: Workspace) -> None:
    found = workbench.compare("step_count", metric="fid", against="k4", workspace=place.root)
    uri = default_uri(place.root)
    direct = compare(select(uri, place, ["step_count"]), "fid", "k4")
    assert found.as_dict() == direct.as_dict()
    assert found.frame()["fid_at_kimg_mean"].tolist() == [
        result.get("fid", "at_kimg").mean for result in direct.results
    ]
    with pytest.raises(RequestError, match="files of these scores are missing"):
        workbench.compare("step_count", metric="kid", steps=2, workspace=place.root)
    assert ScoreComparison is not type(found)


def test_a_long_run_keeps_every_evaluation(place: Workspace) -> None:
    """Its tag holds a part of them; a spike in the other part is in the table all the same."""
    uri = default_uri(place.root)
    (row,) = list_runs(uri, "long")
    history = metric_history(uri, row.run_id, ["eval/fid"])
    assert len(history) == 251
    assert row.tags[CURVE_TAG].count(",") < 251 * 3  # thinned: else this tests nothing
    frame = workbench.scores("long", workspace=place.root)
    fid = frame[(frame["metric"] == "fid") & (frame["source"] == "training")]
    assert fid["kimg"].tolist() == (history["step"] / 1000).tolist()
    assert fid["value"].tolist() == history["value"].tolist()


def test_importing_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'mlflow', 'pandas', 'matplotlib'} & set(sys.modules)"
    code = f"import sys, workbench; workbench.__all__; print(*{heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
