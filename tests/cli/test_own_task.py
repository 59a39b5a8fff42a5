"""Teachers, images, prompts and networks of one's own, through every command.

Nothing here is known to the package: two small pipelines learnt coloured shapes, a reference is
made of the shapes' images, FID looks through a small TorchScript network and CLIP score through a
small open_clip checkpoint. A recipe, a task and an experiment are files in a folder of one's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench
from tests.colors import CAPTIONS, COLORS, write_experiment, write_images, write_networks
from tests.conftest import SMALL_RECIPES
from workbench.metrics import DRIFT_METRICS
from workbench.teachers import build_from_recipe
from workbench.tracking import default_uri, list_runs, metric_history

FAMILIES = {"sana": "SanaPipeline", "sd3": "StableDiffusion3Pipeline"}


@pytest.fixture(scope="module")
def place(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that a person brings, and a workspace in it."""
    root = tmp_path_factory.mktemp("own")
    write_images(root / "images")
    (root / "prompts.txt").write_text("\n".join(CAPTIONS) + "\n")
    inception, clip = write_networks(root / "networks")
    write_experiment(root / "experiments", root / "prompts.txt", inception, clip)
    for name, family in FAMILIES.items():
        built = build_from_recipe(f"colors-{name}", SMALL_RECIPES[family], root, data=COLORS)
        built.rename(root / name)
    # SD3's users get a shift of 3 from their scheduler, whatever the network was trained with.
    scheduler = root / "sd3" / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "shift": 3.0}))
    return root


@pytest.fixture
def own(
    place: Path, workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InsideWorkbench]:
    """Commands on that workspace, which knows the experiment and has the reference."""
    monkeypatch.setenv("WORKBENCH_EXPERIMENTS", str(place / "experiments"))
    workbench.workspace = place / "workspace"
    if not (workbench.workspace / "references" / "colors").exists():
        workbench(
            *("references", "build", "colors", "--images", str(place / "images")),
            *("--captions", str(place / "captions.txt"), "--resolution", "32"),
            *("--weights", f"inception={place / 'networks' / 'inception.pt'}"),
        )
    return workbench


def run_of(place: Path, family: str, *more: str) -> list[str]:
    return ["run", "shades", "--teacher", str(place / family), "--recipe", "colors", *more]


@pytest.fixture
def trained(own: InsideWorkbench, place: Path) -> InsideWorkbench:
    """Both teachers distilled; the second caller only recalls it."""
    for family in FAMILIES:
        own(*run_of(place, family, "--seed", "0"))
    return own


def results_of(workbench: InsideWorkbench, family: str) -> list[dict[str, Any]]:
    files = workbench.workspace.glob("runs/shades/*/results.json")
    read = [json.loads(file.read_text()) for file in files]
    return [results for results in read if results["teacher"]["name"].endswith(family)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_is_measured_by_its_own_yardstick(trained: InsideWorkbench, family: str) -> None:
    found = results_of(trained, family)
    assert len(found) == 2
    for results in found:
        rows = {(row["model"], row["steps"]): row for row in results["table"]}
        assert set(rows) == {("stock", 6), ("teacher", 4), ("student", 4)}
        assert all({"fid", "clip"} <= set(row) for row in rows.values())
        assert "guidance 2" in rows["stock", 6]["how"]
        assert ("shift 3" in rows["stock", 6]["how"]) == (family == "sd3")
        assert rows["stock", 6]["nfe"] == 12  # guidance costs a second pass
        assert rows["teacher", 4]["how"] == "Euler, shift 1, guidance 1"
        assert results["primary_metric"] == "fid"
        assert set(results["drift"]) == set(DRIFT_METRICS)
        assert all(each["value"] > 0 for each in results["drift"].values())
    runs = list_runs(default_uri(trained.workspace), "shades", where=ONLY_RUNS)
    own = [run for run in runs if run.tags["teacher"].endswith(family)]
    history = metric_history(default_uri(trained.workspace), own[0].run_id)
    measured = {key: list(rows["step"]) for key, rows in history.groupby("key")}
    for key in ("eval/fid", "eval/clip", "drift/saturation", "drift/pixel_diversity"):
        assert measured[key] == [0, 160, 320, 480], key


def test_the_figure_shows_both_scores(trained: InsideWorkbench, tmp_path: Path) -> None:
    run = next(trained.workspace.glob("runs/shades/*/results.json")).parent
    drawn = (run / "figures" / "fid_against_kimg.svg").read_text()
    assert re.search(r'id="fid-\d+"', drawn)
    assert re.search(r'id="clip-\d+"', drawn)
    with Image.open(run / "figures" / "samples.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(float)
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() > 60  # in colour


def test_compare_and_report_follow_any_metric_in_its_own_direction(
    trained: InsideWorkbench, place: Path, tmp_path: Path
) -> None:
    for metric, best in (("fid", min), ("clip", max)):
        told = trained.json("compare", "shades", "--all", "--metric", metric)
        means = [group["scores"][metric]["at_kimg"]["mean"] for group in told["groups"]]
        assert means[0] == best(means)
        assert means == sorted(means, reverse=best is max)
    assert trained.json("compare", "shades", "--all", "--metric", "saturation")["groups"]
    page = tmp_path / "page.html"
    which = ("--teacher", str(place / "sana"), "--recipe", "colors")
    trained("report", "shades", *which, "--out", str(page))
    text = page.read_text()
    assert "CLIP score" in text
    assert "saturation" in text


def test_evaluate_measures_a_student_as_its_run_did(trained: InsideWorkbench) -> None:
    run = next(trained.workspace.glob("runs/shades/low*/results.json")).parent
    (row,) = trained.json("evaluate", f"shades/{run.name}", "--bootstrap", "0")["table"]
    stored = json.loads((run / "results.json").read_text())["table"]
    student = next(each for each in stored if each["model"] == "student")
    assert row["reference"] == "colors"
    assert row["samples"] == 48
    for metric in ("fid", "clip"):
        assert row[metric] == pytest.approx(student[metric], rel=1e-5)


def test_an_export_says_what_it_was_scored_by(trained: InsideWorkbench, tmp_path: Path) -> None:
    run = next(trained.workspace.glob("runs/shades/low*/results.json")).parent
    trained("export", f"shades/{run.name}", str(tmp_path / "student"))
    card = (tmp_path / "student" / "README.md").read_text()
    assert "clip" in card
    assert "aturation" in card


def test_the_best_checkpoint_by_clip_is_the_highest(own: InsideWorkbench, place: Path) -> None:
    own(*run_of(place, "sana", "--variant", "low", "--set", "evaluation.primary=clip"))
    (results,) = [r for r in results_of(own, "sana") if r["primary_metric"] == "clip"]
    uri = default_uri(own.workspace)
    (run,) = [r for r in list_runs(uri, "shades", where=ONLY_RUNS) if "best/clip" in r.metrics]
    history = metric_history(uri, run.run_id, ["eval/clip"])
    highest = history.loc[history["value"].idxmax()]
    assert results["best"] == {
        "clip": pytest.approx(highest["value"]),
        "nimg": int(highest["step"]),
    }


def test_a_study_that_maximises_clip_promotes_the_highest(
    own: InsideWorkbench, place: Path, tmp_path: Path
) -> None:
    which = ("--teacher", str(place / "sana"), "--recipe", "colors")
    told = own.json("studies", "run", "shades", *which, "--objective", "clip", "--trials", "3")
    number = str(told["best"][0]["number"])
    which = ("--trial", number, "--variant", "found", "--folder", str(tmp_path))
    own("studies", "promote", "shades", *which)
    promoted = (tmp_path / "shades.found.toml").read_text()
    best = max(told["history"])
    assert told["best"][0]["values"]["clip"] == best
    assert f"CLIP score {best:.6g}" in promoted


def test_a_teacher_without_a_recipe_is_asked_about(own: InsideWorkbench, place: Path) -> None:
    answer = own("run", "shades", "--teacher", str(place / "sana"), code=2)
    assert answer.stderr.count("\n") == 1
    for part in ("has no recipe", "prompts.source=FILE", "evaluation.metrics=[]", "--recipe sana-"):
        assert part in answer.stderr
    told = own("run", "shades", "--teacher", str(place / "sd3"), "--recipe", "colors-none", code=2)
    assert "Unknown recipe 'colors-none'. Did you mean 'colors'?" in told.stderr
    wrong = ("--recipe", "sana-0.6b-512")
    told = own("run", "shades", "--teacher", str(place / "sd3"), *wrong, code=2)
    assert "is for a SanaPipeline" in told.stderr
    assert "StableDiffusion3Pipeline" in told.stderr


def test_a_run_without_scores_still_has_its_look(own: InsideWorkbench, place: Path) -> None:
    """No reference, no network: drift from the teacher and diversity alone."""
    bare = [
        *("run", "shades", "--variant", "low", "--teacher", str(place / "sana")),
        *("--set", f"prompts.source={place / 'prompts.txt'}", "--set", "evaluation.metrics=[]"),
        *("--set", "training.kimg=0.064", "--set", "training.batch_size=32"),
        *("--set", "training.micro_batch_size=null", "--set", "training.precision=fp32"),
        *("--set", "schedule.evaluate_kimg=0.032", "--set", "experiment=bare"),
        *("--set", "evaluation.teacher_steps=[2]", "--set", "evaluation.precision=fp32"),
    ]
    own(*bare)
    (results,) = (
        json.loads(file.read_text()) for file in own.workspace.glob("runs/bare/*/results.json")
    )
    assert results["table"] == []
    assert results["primary_metric"] is None
    assert set(results["drift"]) == set(DRIFT_METRICS)
