"""Runs on a teacher with a known answer, from the closed form to the table against the truth."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from workbench.bundled import bundled_folder, load_module
from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.registry import get_experiment, make_plan
from workbench.reports.figures import analytic
from workbench.runs.execution import RunOutcome, execute
from workbench.runs.mixture_task import SAMPLES_FILE, MixtureTask
from workbench.runs.spec import RunSpec
from workbench.students.models import load_model
from workbench.students.text import TextJob
from workbench.teachers.analytic import ANALYTIC, MixtureRecipe, build_mixture
from workbench.teachers.recipe import FlowMatchingRecipe
from workbench.tracking import default_uri, list_runs
from workbench.training.events import Listener, StopFlag
from workbench.training.parallel import Ranks
from workbench.training.recipes import run_config
from workbench.training.run_folder import all_runs, run_folder
from workbench.workspace import Workspace, open_workspace

SMALL = (
    "teacher=analytic-ring-8",
    "experiment=small",
    "training.kimg=0.256",
    "training.batch_size=64",
    "schedule.evaluate_kimg=0.128",
    "evaluation.samples=300",
    "evaluation.teacher_steps=[20,4]",
    "evaluation.student_steps=[4]",
)
Run = Callable[..., RunOutcome]


RING, PROMPTED = list(ANALYTIC)[:2]


def recipe(name: str) -> MixtureRecipe:
    brief = FlowMatchingRecipe(steps=5, batch_size=32, warmup_steps=1)
    small = {"width": 16, "blocks": 1, "samples": 500, "pretraining": brief}
    return ANALYTIC[name].model_copy(update=small)


def small_teacher(workspace: Workspace, name: str) -> Path:
    folder = workspace.teachers / f"small-{name}"
    if not folder.exists():
        build_mixture(recipe(name), folder)
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, fresh_store: Path) -> Workspace:
    place = open_workspace(tmp_path_factory.mktemp("workspace"))
    shutil.copy(fresh_store, place.root)
    return place


@pytest.fixture(scope="module")
def run(workspace: Workspace) -> Run:
    """Runs a small configuration on a small teacher of the analytic kind."""

    def go(*overrides: str, teacher: str = RING) -> RunOutcome:
        folder = small_teacher(workspace, teacher)
        config = run_config(*SMALL[1:], f"teacher={teacher}", *overrides)
        uri = default_uri(workspace.root)
        return execute(RunSpec(config, workspace, uri), find_teacher=lambda *_: folder)

    return go


def test_a_run_is_scored_against_the_truth(run: Run) -> None:
    outcome = run()
    results = outcome.results
    table = {(row["model"], row["steps"]): row for row in results["table"]}
    assert set(table) == {("teacher", 20), ("teacher", 4), ("student", 4), ("truth", 0)}
    floor = results["floor"]["sliced_w2"]
    assert 0.4 * floor["low"] < table["truth", 0]["sliced_w2"] < 2.5 * floor["high"]
    assert table["teacher", 20]["sliced_w2"] < table["student", 4]["sliced_w2"]
    assert results["primary_metric"] == "sliced_w2"
    assert results["best"]["sliced_w2"] <= table["student", 4]["sliced_w2"]
    with np.load(outcome.folder.figures / SAMPLES_FILE) as kept:
        assert {points.shape for points in kept.values()} == {(300, 2)}
        assert sorted(kept) == ["student, 4 steps", "teacher, 20 steps", "teacher, 4 steps"]
    assert (outcome.folder.figures / "samples.png").is_file()


class Warnings(Listener):
    """Keeps what a run warns of."""

    def __init__(self, said: list[str]) -> None:
        self.said = said

    def on_warning(self, nimg: int, message: str) -> None:
        self.said.append(message)


def test_a_picture_that_cannot_be_drawn_loses_nothing(workspace: Workspace) -> None:
    """A folder stands where the picture goes: one line is said, and all the rest is there."""
    folder, said = small_teacher(workspace, RING), list[str]()
    config = run_config(*SMALL[1:], f"teacher={RING}", "experiment=undrawn")
    run = run_folder(workspace, config)
    (run.figures / "samples.png").mkdir(parents=True)
    outcome = execute(
        RunSpec(config, workspace, default_uri(workspace.root)),
        make_listener=partial(Warnings, said),
        find_teacher=lambda *_: folder,
    )
    assert [message[:52] for message in said] == [
        "No grid of the run's end: RequestError: Cannot write"
    ]
    results = json.loads(run.results_file.read_text())
    assert results["table"] == outcome.results["table"]
    assert [Path(file).name for file in results["figures"]] == [SAMPLES_FILE]
    (row,) = list_runs(default_uri(workspace.root), "undrawn")
    assert (row.status, row.tags["outcome"]) == ("FINISHED", "finished")


class TwoDevices(TorchDispatchMode):
    """The meta device as strict as a GPU: copies cross over to it and back, nothing else."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default:
            values = torch.zeros(args[0].shape) if args[0].is_meta else args[0]
            return func(values.to(args[0].dtype), **{"device": args[0].device, **kwargs})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors if tensor.ndim}
        assert len(devices) <= 1, f"{func} of tensors on {devices}"
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", ANALYTIC)
def test_the_truth_is_drawn_where_noise_is_on_a_gpu(workspace: Workspace, name: str) -> None:
    config = run_config(*SMALL[1:], f"teacher={name}")
    job = TextJob(workspace, Ranks(0, 1, torch.device("cpu")), StopFlag())
    task = MixtureTask(config, small_teacher(workspace, name), ["the digit 7"], job)
    size = task.mixture.dimension
    (truth,) = task.further_models()
    cond = task.encoded.rows(["the digit 7"] * 5)
    with TwoDevices():
        there = cond.to(torch.device("meta")) if cond else None
        drawn = truth.sample(there, lambda step: torch.empty(5, size, device="meta"))
    assert (drawn.shape, drawn.device.type) == ((5, size), "meta")


def test_a_picture_shows_the_first_and_last_coordinates_as_the_truth_fills_them(
    workspace: Workspace,
) -> None:
    """As wide as high for a Gaussian of unequal axes; flat where the samples are."""
    name = "analytic-anisotropic"
    job = TextJob(workspace, Ranks(0, 1, torch.device("cpu")), StopFlag())
    config = run_config(*SMALL[1:], f"teacher={name}")
    task = MixtureTask(config, small_teacher(workspace, name), ["the digit 7"], job)
    samples = task.mixture.sample(NoiseSource(0), "x", 0, 20_000)
    flat = samples * torch.cat([torch.ones(63), torch.tensor([0.2])])

    def extent(drawn: torch.Tensor) -> tuple[float, float]:
        dark = (1 - task.pictures(drawn)[0, 0]).square()
        height, width = (dark.sum(axis) for axis in (1, 0))
        place = torch.arange(128.0)
        middle = [float((part * place).sum() / part.sum()) for part in (height, width)]
        assert middle == pytest.approx([63.5, 63.5], abs=1)
        spread = [
            float(((part * (place - 63.5) ** 2).sum() / part.sum()).sqrt())
            for part in (height, width)
        ]
        return spread[0], spread[1]

    high, wide = extent(samples)
    assert high == pytest.approx(wide, rel=0.05) == pytest.approx(12.8, rel=0.1)
    high, wide = extent(flat)
    assert high < 0.4 * wide


def test_a_gaussian_is_scored_along_its_axes(
    run: Run, workspace: Workspace, tmp_path: Path
) -> None:
    outcome = run("experiment=gaussian", teacher="analytic-anisotropic")
    rows = {(row["model"], row["steps"]): row for row in outcome.results["table"]}
    assert rows["truth", 0]["axis_variance_4"] == pytest.approx(1, abs=0.2)
    assert rows["teacher", 4]["axis_variance_4"] < 0.3 < rows["teacher", 4]["axis_variance_1"]
    assert rows["teacher", 20]["gaussian_w2"] < rows["teacher", 4]["gaussian_w2"]
    assert "mode_std" not in rows["student", 4]
    script = load_module(bundled_folder("analysis") / "analytic.py")
    where = ["--workspace", str(workspace.root), "--out", str(tmp_path / "g"), "--format", "png"]
    written = script.SCRIPT.run(["--experiment", "gaussian", *where])
    assert "| variance, smallest axes |" in written.printed.splitlines()[0]
    assert (tmp_path / "g.png").is_file()


def test_the_same_command_recalls_it(run: Run) -> None:
    run()
    assert not run().trained


def test_a_data_aided_run_starts_at_another_and_learns_from_the_truth(run: Run) -> None:
    first = run()
    outcome = run(
        "method.name=sid2a",
        "data.source=truth",
        "data.limit=500",
        f"start={first.folder.name}",
        "method.adversarial.generator_start_kimg=0.064",
        "method.adversarial.adversarial_start_kimg=0.128",
    )
    assert outcome.results["pairs"]["count"] == 500
    assert outcome.results["start"]["source"] == f"{first.folder.name} at 0.256 kimg"


def test_a_prompted_run_counts_modes_that_were_asked_for(run: Run) -> None:
    guided = ("evaluation.cfg_scale=2", "method.guidance.eval_teacher=2")
    outcome = run("experiment=prompted", *guided, teacher=PROMPTED)
    rows = {(row["model"], row["steps"]): row for row in outcome.results["table"]}
    assert rows["truth", 0]["alignment"] > 0.99
    assert rows["teacher", 20]["alignment"] > 0.9
    assert rows["teacher", 20]["nfe"] == 40


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resolution=64"], "draws points, not images.*no height"),
        (["teacher_guidance=2"], "no guidance_scale"),
        (["prompts.source={file}"], "has no prompts"),
        (["method.name=sid2a", "data.source=digits", "training.kimg=64"], "data.source=truth"),
        (["method.guidance.eval_teacher=2"], r"method.guidance.eval_teacher=2: .* has none"),
        (["method.name=kd", "generator.noise=ddim", "method.cfg_scale=2"], "method.cfg_scale=2: "),
        (["evaluation.cfg_scale=2"], "no prompts to be guided by"),
    ],
)
def test_what_it_has_no_use_for_is_refused(
    run: Run, workspace: Workspace, tmp_path: Path, overrides: list[str], message: str
) -> None:
    (tmp_path / "prompts.txt").write_text("a cat\n")
    given = [text.format(file=tmp_path / "prompts.txt") for text in overrides]
    with pytest.raises(RequestError, match=message):
        run("experiment=refused", *given)
    assert not list(workspace.runs.glob("refused/*/checkpoints")), "nothing was trained"


def test_images_of_it_are_refused(run: Run, workspace: Workspace) -> None:
    outcome = run()
    with pytest.raises(RequestError, match="draws points, not images"):
        load_model(workspace, outcome.folder.name, torch.device("cpu"))


def test_the_script_tables_and_draws_them(run: Run, workspace: Workspace, tmp_path: Path) -> None:
    run()
    run("seed=1")
    script = load_module(bundled_folder("analysis") / "analytic.py")
    written = script.SCRIPT.run(
        [
            *("--experiment", "small", "--workspace", str(workspace.root)),
            *("--out", str(tmp_path / "analytic"), "--format", "png", "--csv"),
        ]
    )
    lines = written.printed.splitlines()
    assert lines[2].startswith("| truth (floor) |")
    (student,) = [line for line in lines if "default" in line and "| 4 | 2 |" in line]
    assert "±" in student  # the mean of two seeds of one setting, whatever else bears its name
    assert "| exact teacher | 20 | 2 |" in written.printed  # as many noises
    assert sum(line.startswith("| exact teacher | 4 ") for line in lines) == 1
    assert {"analytic.png", "analytic.md", "analytic.csv", "analytic_modes.csv"} <= {
        path.name for path in written.files
    }
    own = [each for each in all_runs(workspace) if each.path.parent.name == "small"]
    frame = analytic.collect(own)
    assert isinstance(frame, pd.DataFrame)
    assert {"variant", "seed", "model", "steps", "sliced_w2"} <= set(frame.columns)
    assert set(frame["seed"]) == {0, 1}


def test_the_script_refuses_other_runs(workspace: Workspace, tmp_path: Path) -> None:
    script = load_module(bundled_folder("analysis") / "analytic.py")
    with pytest.raises(RequestError, match="no finished run"):
        script.SCRIPT.run(["--experiment", "none", "--workspace", str(workspace.root)])


def test_every_variant_of_the_experiment_is_on_the_analytic_teacher() -> None:
    variants = make_plan(get_experiment("analytic")).variants
    assert {config.teacher for config in variants.values()} == {"analytic-ring-8"}
    assert {config.evaluation.samples for config in variants.values()} == {10_000}
