"""`compare` and `report` as a person calls them, on runs that nobody had to train."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import PIL.Image
import pytest

from tests.cli.conftest import InsideWorkbench
from tests.populate import Shape, populate
from tests.services import MlflowServer
from workbench.evaluation import Interval
from workbench.hashing import fingerprint
from workbench.registry import Experiment, Plan, make_plan, register
from workbench.scoring.kept_scores import ARTIFACTS
from workbench.scoring.scored_rows import Score, ScoredRow, keep_row
from workbench.tracking import add_artifact, default_uri, list_runs
from workbench.tracking.store import open_store
from workbench.training.config import RunConfig
from workbench.workspace import Workspace, open_workspace

VARIANTS = ("wide", "narrow")
SHAPES = {"narrow": Shape(floor=0.9)}


def planned(experiment: str) -> Plan:
    variants = {name: {"training.kimg": 12.8} for name in VARIANTS}
    return make_plan(Experiment(experiment, "Which?", "Wide.", variants))


def configs(experiment: str) -> list[RunConfig]:
    plan = planned(experiment)
    return [plan.config(name, seed) for name in VARIANTS for seed in (0, 1)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """A registered experiment with two variants of two seeds; read it only."""
    place = open_workspace(tmp_path_factory.mktemp("compared") / "workspace")
    shutil.copy(fresh_store, place.root)
    uri = default_uri(place.root)
    register(planned("ranges"), [0, 1], place, uri)
    populate(uri, place, configs("ranges"), SHAPES)
    return place


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, filled: Workspace) -> Workspace:
    """The same runs with KID logged, its files in the tracking store alone; read it only."""
    folder = tmp_path_factory.mktemp("scored")
    place = Workspace(folder / "workspace")
    shutil.copytree(filled.root, place.root)
    uri = default_uri(place.root)
    for row in list_runs(uri, "ranges", where="tags.kind = 'run'"):
        value = 0.01 + 0.02 * (row.tags["variant"] == "narrow") + 0.001 * int(row.tags["seed"])
        made = {"metric": "kid", "samples": 2000, "versions": {"torch": "2.12"}}
        made |= {"protocol": fingerprint(made), "seed": int(row.tags["seed"])}
        score = Score("kid", value, {**made, "id": row.run_id}, Interval(value - 0.1, 1.0))
        kept = ScoredRow("m", "student", "coco10k", 2000, 4, 4.0, 1.0, (score,), made, 12.8)
        add_artifact(uri, row.run_id, keep_row(Workspace(folder / "away"), kept), ARTIFACTS)
        for key, logged in kept.tracked().items():
            open_store(uri).log_metric(row.run_id, key, logged, step=12800)
    return place


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    """Runs that CLIP score judges, with FID and drift beside it; read it only."""
    place = open_workspace(tmp_path_factory.mktemp("judged") / "workspace")
    shutil.copy(fresh_store, place.root)
    uri = default_uri(place.root)
    base = {"evaluation.metrics": ["fid", "clip"], "evaluation.primary": "clip"}
    variants = {name: {"training.kimg": 12.8} for name in VARIANTS}
    plan = make_plan(Experiment("looks", "Which?", "Wide.", variants, base))
    register(plan, [0, 1], place, uri)
    drift = {
        "narrow": Shape(floor=0.9, drift={"saturation": 0.7, "contrast": 1.1}),
        "wide": Shape(drift={"saturation": 0.98, "contrast": 1.2}),
    }
    populate(uri, place, [plan.config(v, s) for v in VARIANTS for s in (0, 1)], drift)
    return place


@pytest.fixture
def inside(filled: Workspace, workbench: InsideWorkbench) -> InsideWorkbench:
    workbench.workspace = filled.root
    return workbench


def test_tables_and_notes_go_where_they_belong(inside: InsideWorkbench) -> None:
    done = inside("compare", "ranges")
    lines = done.stdout.splitlines()
    wide, narrow = (next(place for place, t in enumerate(lines) if v in t) for v in VARIANTS)
    assert wide < narrow
    assert "at 12.8 kimg" in done.stdout
    assert "worse" in done.stdout
    assert f"ui --experiment ranges --workspace {inside.workspace}\n" in done.stderr
    assert done.stdout.count("ui --experiment") == 0


def test_what_is_compared_in_another_store_is_opened_there(
    filled: Workspace, workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = default_uri(filled.root)
    open_workspace(workbench.workspace)
    done = workbench("compare", "ranges", "--tracking-uri", uri)
    assert f"--workspace {workbench.workspace} --tracking-uri {uri}\n" in done.stderr


def test_json_is_one_document_of_the_same_numbers(inside: InsideWorkbench, tmp_path: Path) -> None:
    picture, numbers = tmp_path / "figure.png", tmp_path / "numbers.csv"
    files = ("--figure", str(picture), "--csv", str(numbers))
    values = inside.json("compare", "ranges/wide", "ranges/narrow", "--metric", "fid", *files)
    assert [group["label"] for group in values["groups"]] == ["wide", "narrow"]
    assert values["verdicts"][0]["difference"] > 0.3
    rows = {row.run_id: row for row in list_runs(default_uri(inside.workspace), "ranges")}
    for group in values["groups"]:
        last = [rows[run["run_id"]].metrics["eval/fid"] for run in group["runs"]]
        assert group["scores"]["fid"]["last"]["values"] == pytest.approx(last, rel=1e-5)
    assert PIL.Image.open(picture).width > 1000
    assert len(numbers.read_text().splitlines()) == 3


def test_markdown(inside: InsideWorkbench) -> None:
    lines = inside("compare", "ranges", "--markdown").stdout.splitlines()
    assert lines[0].startswith("**FID")
    assert lines[2].startswith("| variant | seeds | at 12.8 kimg | at ")
    assert lines[4].startswith("| wide | 2 | 0.")


def test_scores_of_evaluate(scored: Workspace, workbench: InsideWorkbench, tmp_path: Path) -> None:
    workbench.workspace, numbers = scored.root, tmp_path / "numbers.csv"
    asked = ["compare", "ranges", "--metric", "kid", "--csv", str(numbers)]
    values = workbench.json(*asked, "--reference", "coco10k", "--steps", "4")
    assert (values["metric"], values["reference"], values["steps"]) == ("kid", "coco10k", 4)
    assert [group["label"] for group in values["groups"]] == ["wide", "narrow"]
    assert values["groups"][0]["mean"] == pytest.approx(0.0105)
    assert values["groups"][0]["interval_over"] == "training and evaluation"
    assert values["groups"][0]["runs"][0]["kept"]["fingerprint"]["samples"] == 2000
    assert values["verdicts"][0]["verdict"] == "no spread between seeds: no verdict"
    assert numbers.read_text().splitlines()[1].startswith("wide,ranges,wide,")
    lines = workbench("compare", "ranges", "--metric", "kid", "--markdown").stdout.splitlines()
    assert lines[0].startswith("**kid against coco10k, 4 steps; protocol ")
    assert lines[4].startswith("| wide | 2 | 12.8 | 0.0105 |")
    alone = workbench.json("compare", "ranges/wide-seed0", "--metric", "kid")["groups"][0]
    assert (alone["interval"], alone["interval_over"]) == ([pytest.approx(-0.09), 1.0], "samples")


def test_any_score_of_training_judges_and_drift_has_its_table(
    judged: Workspace, workbench: InsideWorkbench, tmp_path: Path
) -> None:
    workbench.workspace = judged.root
    assert workbench.json("compare", "looks")["metric"] == "clip"
    lines = workbench("compare", "looks", "--markdown").stdout.splitlines()
    assert lines[0] == "**CLIP score, mean over training seeds ± 95 % interval**"
    assert "| variant | FID at 12.8 kimg | ms/image | NFE |" in lines
    drift = lines.index("| variant | saturation | contrast |")
    assert lines[drift - 2].startswith("**Drift from the teacher")
    assert {lines[drift + 2][:16], lines[drift + 3][:16]} == {
        "| wide | 0.980±0",
        "| narrow | 0.702",
    }
    picture = tmp_path / "saturation.png"
    asked = ["compare", "looks", "--metric", "saturation", "--figure", str(picture)]
    found = workbench.json(*asked)
    assert [group["label"] for group in found["groups"]] == ["wide", "narrow"]
    assert picture.is_file()
    asked[3] = "contrast"
    assert [group["label"] for group in workbench.json(*asked)["groups"]] == ["narrow", "wide"]
    told = workbench("compare", "looks", "--metric", "satration", code=2).stderr
    assert "Did you mean 'saturation'? Known: alignment" not in told
    assert "Did you mean 'saturation'? Known: clip, contrast, fid, saturation." in told
    assert "fid, sliced_w2 or alignment" not in workbench("compare", "--help").stdout


def test_other_commands_tell_what_judges_too(
    judged: Workspace, workbench: InsideWorkbench, tmp_path: Path
) -> None:
    workbench.workspace = judged.root
    (run, *_) = workbench.json("runs", "list")
    assert run["primary_metric"] == "clip"
    assert run["best"] >= run["score"] == run["clip"]
    assert "best CLIP score" in workbench("runs", "list").stdout
    (plan,) = workbench.json("experiments", "status", "looks")
    cell = plan["cells"][0]
    assert (cell["primary_metric"], cell["score"]) == ("clip", cell["clip"])
    assert cell["best"] >= cell["clip"]
    assert 0 < cell["saturation"] < 1
    assert "CLIP score" in workbench("experiments", "status", "looks").stdout
    out = tmp_path / "looks.html"
    workbench("report", "looks", "--out", str(out))
    page = out.read_text()
    assert "Drift from the teacher" in page
    assert page.count("data:image/svg") == 2  # CLIP score and FID: drift is a table
    workbench("report", "looks", "--metric", "saturation", "--out", str(out))
    assert "<h2>|log(saturation / 1)| against wide, at 12.8 kimg</h2>" in out.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--metric", "kidd"],
            "Unknown metric 'kidd'. Did you mean 'kid'? Known: ",
        ),
        (["--metric", "fid", "--steps", "4"], "Unknown metric of `workbench evaluate` 'fid'"),
        (["--metric", "kid", "--reference", "coco"], "Did you mean 'coco10k'"),
        (["--metric", "kid", "--steps", "2"], "Unknown steps of kid '2'. Known: 4."),
        (["--metric", "kid", "--protocol", "zz"], "Unknown protocol of kid 'zz'"),
        (
            ["--metric", "kid", "--figure", "x.png"],
            "--figure draws scores measured during training",
        ),
    ],
)
def test_scores_that_are_not_there(
    scored: Workspace, workbench: InsideWorkbench, arguments: list[str], message: str
) -> None:
    workbench.workspace = scored.root
    done = workbench("compare", "ranges", *arguments, code=2)
    assert message in done.stderr
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ranges", "--json", "--markdown"], "choose one"),
        (["range"], "Did you mean 'ranges'"),
        (["ranges/wide-seed9"], "Unknown experiment, variant or run"),
        (["ranges", "--metric", "fed"], "Did you mean 'fid'"),
        (["ranges", "--figure", "curves.bmp"], "ends in one of .png, .svg, .pdf"),
        (["ranges", "--tracking-uri", "somewhere"], "Cannot track to 'somewhere'"),
    ],
)
def test_wrong_requests(inside: InsideWorkbench, arguments: list[str], message: str) -> None:
    done = inside("compare", *arguments, code=2)
    assert message in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_a_report_is_written_and_kept(inside: InsideWorkbench, tmp_path: Path) -> None:
    place = Workspace(tmp_path / "workspace")
    shutil.copytree(inside.workspace, place.root)
    inside.workspace = place.root
    done = inside("report", "ranges")
    path = place.root / "reports" / "ranges.html"
    assert done.stdout == f"{path}\n"
    assert "report/ranges.html" in done.stderr
    assert "Which?" in path.read_text()
    values = inside.json("report", "ranges", "--out", str(tmp_path / "x.html"))
    assert values == {"report": str(tmp_path / "x.html"), "artifact": "report/ranges.html"}
    assert "Unknown" in inside("report", "ranges", "--metric", "fed", code=2).stderr
    assert "is not registered" in inside("report", "nothing", code=2).stderr


def test_a_servers_address_opens_the_comparison(
    workbench: InsideWorkbench, mlflow_on_postgres: MlflowServer
) -> None:
    place = open_workspace(workbench.workspace)
    made = populate(mlflow_on_postgres.uri, place, configs("served-ranges"), SHAPES, folders=False)
    address = mlflow_on_postgres.uri
    done = workbench("compare", "served-ranges", "--tracking-uri", address)
    view = unquote(done.stderr)
    assert f"{address}/#/compare-runs?runs=" in view
    assert all(run_id in view for run_id in made)


def test_reading_commands_wait_for_no_heavy_package(filled: Workspace) -> None:
    """What keeps 500 runs under two seconds; importing torch or MLflow alone takes as long."""
    code = (
        "import sys; from workbench.cli.main import app\n"
        "reading = ['runs', 'list'], ['compare', 'ranges'], ['experiments', 'status', 'ranges']\n"
        "for command in reading:\n"
        "    app(command, standalone_mode=False)\n"
        "print(*{'torch', 'mlflow', 'pandas', 'optuna'} & set(sys.modules), file=sys.stderr)"
    )
    environment = {**os.environ, "WORKBENCH_WORKSPACE": str(filled.root)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stderr.splitlines()[-1] == ""
    assert done.stdout.count("wide") >= 5
    assert "4 of 4 runs are finished" in done.stdout
