"""The main job, whole: trained, tracked, resumed, evaluated, drawn."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench, Workbench
from workbench.tracking import (
    default_uri,
    last_status,
    list_artifacts,
    list_runs,
    metric_history,
    tracking_dir,
)
from workbench.training.checkpoint import load_modules

KEYS = ("eval/fid", "eval/alignment", "best/fid", "train/generator_loss", "perf/images_per_s")


def final_weights(run: Path, teacher) -> dict[str, torch.Tensor]:
    import copy

    networks = {
        role: copy.deepcopy(teacher.network)
        for role in ("generator", "generator_ema", "fake_score")
    }
    load_modules(max(run.glob("checkpoints/nimg-*")), networks)
    return {
        f"{role}/{name}": value
        for role, network in networks.items()
        for name, value in network.state_dict().items()
    }


def points_in_mlflow(workbench: Workbench) -> dict[str, list[int]]:
    uri = default_uri(workbench.workspace)
    (run,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    history = metric_history(uri, run.run_id)
    keys = [key for key in history["key"].unique() if not key.startswith("system/")]
    return {key: sorted(history.loc[history["key"] == key, "step"]) for key in keys}


def test_a_finished_run_has_everything(finished: Workbench) -> None:
    run = finished.only_run()
    results = json.loads((run / "results.json").read_text())
    rows = {(row["model"], row["steps"]): row for row in results["table"]}
    assert set(rows) == {("teacher", 4), ("student", 4), ("student", 1)}
    assert all(row["nfe"] == row["steps"] for row in rows.values())
    assert rows["teacher", 4]["fingerprint"]["samples"] == 200
    assert results["nimg"] == 1600

    (tracked,) = list_runs(default_uri(finished.workspace), "quickstart", where=ONLY_RUNS)
    assert tracked.status == "FINISHED"
    assert tracked.params["training.batch_size"] == "32"
    tags = tracked.tags
    assert (tags["method"], tags["variant"], tags["seed"]) == ("sid", "default", "0")
    steps = points_in_mlflow(finished)
    assert steps["eval/fid"] == steps["eval/alignment"] == steps["best/fid"] == [0, 800, 1600]
    assert steps["train/generator_loss"] == list(range(160, 1601, 160))
    assert steps["perf/images_per_s"] == steps["train/generator_loss"]

    for name in ("fid_against_kimg.png", "fid_against_kimg.svg", "samples.png"):
        assert (run / "figures" / name).stat().st_size > 5000
    with Image.open(run / "figures" / "samples.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 30
    csv = (run / "figures" / "fid_against_kimg.csv").read_text().splitlines()
    assert len(csv) == 1 + 3


def test_running_again_recalls_the_results(inside_finished: InsideWorkbench) -> None:
    again = inside_finished(*inside_finished.quick())
    assert "finished before" in again.stderr
    assert "student" in again.stdout


def test_what_another_workspace_has_done_is_not_done_again(
    finished: Workbench, workbench: InsideWorkbench
) -> None:
    uri = default_uri(finished.workspace)
    told = workbench(*workbench.quick(), "--tracking-uri", uri)
    assert "quickstart/default-seed0 is finished on" in told.stderr
    assert not list(workbench.workspace.glob("runs/*/*"))
    assert len(list_runs(uri, "quickstart", where=ONLY_RUNS)) == 1


def test_a_teacher_is_asked_once_and_its_transformer_never_loaded(
    prepared: InsideWorkbench,
) -> None:
    """Whether it is a teacher, of all runs in a workspace; its weights are read shard by shard."""
    from diffusers import ModelMixin

    from workbench.runs import session

    asked: list[int] = []
    loaded: list[str] = []
    check, load = session.check_is_teacher, ModelMixin.from_pretrained.__func__

    def counted(network, *arguments):
        before = network.evaluations
        check(network, *arguments)
        asked.append(network.evaluations - before)

    def watched(cls, *arguments, **keywords):
        loaded.append(cls.__name__)
        return load(cls, *arguments, **keywords)

    prepared.monkeypatch.setattr(session, "check_is_teacher", counted)
    prepared.monkeypatch.setattr(ModelMixin, "from_pretrained", classmethod(watched))
    brief = ("training.kimg=0.064", "evaluation.metrics=[]", 'evaluation.shown=["the digit 7"]')
    prepared(*prepared.quick("--seed", "0,1", settings=brief))
    assert len(list(prepared.workspace.glob("runs/*/*/results.json"))) == 2
    assert asked == [80]
    assert set(loaded) == {"AutoencoderDC"}


def test_evaluate_sample_and_list_the_finished_run(
    inside_finished: InsideWorkbench, tmp_path: Path
) -> None:
    finished = inside_finished
    run = finished.only_run()
    stored = json.loads((run / "results.json").read_text())["table"]
    measured = finished.json("evaluate", "quickstart", "--samples", "200", "--steps", "4")["table"]
    student = next(row for row in stored if (row["model"], row["steps"]) == ("student", 4))
    assert measured[0]["fid"] == pytest.approx(student["fid"], rel=1e-9)
    assert measured[0]["fingerprint"]["id"] == student["fingerprint"]["id"]

    one, two = tmp_path / "one.png", tmp_path / "two.png"
    for out in (one, two):
        finished(
            "sample", "quickstart", "--prompt", "the digit 3", "--seed", "5", "--out", str(out)
        )
    pictures = [np.asarray(Image.open(file)) for file in (one, two)]
    assert np.array_equal(*pictures)

    (row,) = finished.json("runs", "list")
    assert (row["state"], row["kimg"]) == ("FINISHED", 1.6)
    assert row["fid"] == pytest.approx(student["fid"])


@pytest.mark.parametrize("nimg", [0, 480, 1280])
def test_kill_9_changes_nothing(
    nimg: int, prepared: InsideWorkbench, finished: Workbench, digits_teacher
) -> None:
    """Killed at a moment of its own choosing, the same command ends with the same bits."""
    arguments = prepared.quick()
    killed = prepared.signal_when(arguments, prepared.nimg_reached(nimg), signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    prepared(*arguments)
    expected = final_weights(finished.only_run(), digits_teacher)
    ours = final_weights(prepared.only_run(), digits_teacher)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    points, reference = points_in_mlflow(prepared), points_in_mlflow(finished)
    assert {key: points[key] for key in KEYS} == {key: reference[key] for key in KEYS}
    assert all(max(Counter(steps).values()) == 1 for steps in points.values())


KILLED_WITH_RESULTS = """
import os, signal
from workbench.runs import session
from workbench.cli.main import run_cli

def write(path, values, real=session.write_json):
    real(path, values)
    if path.name == "results.json":
        os.kill(os.getpid(), signal.SIGKILL)

def damaged(real):
    return lambda self, model: real(self, model) * float("nan")

session.write_json = write
for name in ("_images", "_first_images"):
    setattr(session.Session, name, damaged(getattr(session.Session, name)))
run_cli()
"""
"""A run whose pictures cannot be drawn, killed when it has written its results, before them."""


def test_a_run_killed_with_its_results_is_told_to_have_ended(
    prepared: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures hold NaN: what was written before them is whole."""
    arguments = prepared.quick(settings=("training.kimg=0.16", "evaluation.samples=50"))
    command = [sys.executable, "-c", KILLED_WITH_RESULTS]
    monkeypatch.setattr(prepared, "command", lambda *given: [*command, *given])
    killed = prepared.start(*arguments)
    _, said = killed.communicate(timeout=200)
    assert killed.returncode == -signal.SIGKILL
    assert "Warning at 0 kimg: No sample grid: Images hold values that are not finite" in said
    uri = default_uri(prepared.workspace)
    run = prepared.only_run()
    assert last_status(run) == "RUNNING"
    assert not list(run.glob("figures/samples*"))

    prepared(*arguments)
    (tracked,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    assert (tracked.status, tracked.tags["outcome"]) == ("FINISHED", "finished")
    assert tracked.end_time == (run / "results.json").stat().st_mtime_ns // 1_000_000
    assert tracked.tags["warnings"] == "2"  # at 0 and 0.16 kimg
    assert "results.json" in list_artifacts(uri, tracked.run_id)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_checkpoint_and_end_killed(
    prepared: InsideWorkbench, number: signal.Signals
) -> None:
    arguments = prepared.quick()
    stopped = prepared.signal_when(arguments, prepared.nimg_reached(320), number)
    assert stopped.returncode == 1
    assert "The same command continues" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    (tracked,) = list_runs(default_uri(prepared.workspace), "quickstart", where=ONLY_RUNS)
    assert tracked.status == "KILLED"
    (row,) = prepared.json("runs", "list")
    assert row["state"] == "INTERRUPTED"


def test_two_processes_never_share_a_run(prepared: InsideWorkbench) -> None:
    arguments = prepared.quick()
    process = prepared.start(*arguments)
    reached = prepared.nimg_reached(0)
    while not reached():
        assert process.poll() is None
    second = prepared(*arguments, code=2)
    assert "already running in another process" in second.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)


def test_two_ranks_reach_the_same_place(prepared: InsideWorkbench, finished: Workbench) -> None:
    prepared(*prepared.quick("--nproc", "2"))
    ours, alone = (
        json.loads((w.only_run() / "results.json").read_text())["table"]
        for w in (prepared, finished)
    )
    for row, other in zip(ours, alone, strict=True):
        assert row["fid"] == pytest.approx(other["fid"], rel=0.05)
    points, reference = points_in_mlflow(prepared), points_in_mlflow(finished)
    assert points["eval/fid"] == reference["eval/fid"]


def test_fresh_keeps_the_old_run(prepared: InsideWorkbench) -> None:
    settings = ("training.kimg=0.16", "evaluation.samples=50")
    prepared(*prepared.quick(settings=settings))
    before = prepared.only_run()
    again = prepared(*prepared.quick("--fresh", "--json", settings=settings))
    assert json.loads(again.stdout)["nimg"] == 160
    assert before.with_name(f"{before.name}~1").is_dir()
    assert before.is_dir()


def test_an_unreachable_tracker_never_stops_training(prepared: InsideWorkbench) -> None:
    settings = ("training.kimg=0.16", "evaluation.samples=50")
    nowhere = ("--tracking-uri", "http://127.0.0.1:9", "--json")
    results = prepared(*prepared.quick(*nowhere, settings=settings))
    assert json.loads(results.stdout)["nimg"] == 160
    # Another address alone does not move it; a store that is named to take it does.
    uri = default_uri(prepared.workspace)
    told = prepared("runs", "sync", "--tracking-uri", uri, "--json", code=1)
    assert {row["store"] for row in json.loads(told.stdout)} == {"http://127.0.0.1:9"}
    assert list_runs(uri) == []
    prepared("runs", "sync", "--to", uri)
    with FileLock(tracking_dir(prepared.only_run()) / "lock"):  # one that its own process delivers
        told = prepared("runs", "sync", "--json")
    rows = {row["run"]: row["undelivered"] for row in json.loads(told.stdout)}
    assert sorted(rows.values(), key=str) == [0, None]
    assert points_in_mlflow(prepared)["eval/fid"] == [0, 160]
    (tracked,) = list_runs(uri, "quickstart", where=ONLY_RUNS)
    assert tracked.status == "FINISHED"
