"""Runs in processes that torchrun or srun started: here on one machine."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench, Workbench
from tests.cli.test_run import final_weights
from tests.training.test_world import in_two_tasks
from workbench.tracking import RunRow, default_uri, list_runs, read_points
from workbench.training.config import load_config
from workbench.training.run_folder import run_folder
from workbench.workspace import exclusive, open_workspace

SHORT = (
    *("training.kimg=0.64", "schedule.evaluate_kimg=0.32", "schedule.log_kimg=0.032"),
    *("evaluation.samples=50", "evaluation.student_steps=[4]", "evaluation.fresh_seeds=0"),
)
TINY = (*SHORT, "training.kimg=0.064", "schedule.evaluate_kimg=0.064")


@dataclass
class UnderTorchrun(Workbench):
    def command(self, *arguments: str) -> list[str]:
        python, *rest = super().command(*arguments)
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        return [python, *torchrun, *rest]


def losses(run: Path) -> dict[tuple[str, int], float]:
    """What a run's journal holds of its training."""
    return {
        (point.key, point.step): point.value
        for point in read_points(run)
        if point.key.startswith("train/")
    }


def tracked_runs(workbench: Workbench) -> list[RunRow]:
    return list_runs(default_uri(workbench.workspace), "quickstart", where=ONLY_RUNS)


def test_torchrun_is_nproc_also_cut_off(prepared: InsideWorkbench, digits_teacher) -> None:
    """Stopped and resumed under torchrun, and uncut by --nproc 2: the same bits."""
    arguments = prepared.quick(settings=SHORT)
    twice = UnderTorchrun(prepared.workspace, prepared.teacher)
    stopped = twice.signal_when(arguments, prepared.nimg_reached(160), signal.SIGTERM)
    assert stopped.returncode == 1
    assert stopped.stderr.count("the checkpoint is written. The same command continues") == 1
    resumed = twice(*arguments, "--json")
    assert resumed.stderr.count("Resuming at") == 1
    run = prepared.only_run()
    assert json.loads(resumed.stdout) == json.loads((run / "results.json").read_text())
    (tracked,) = tracked_runs(prepared)
    assert (tracked.status, tracked.tags["ranks"]) == ("FINISHED", "2")
    # The same configuration is the same run: set it aside and repeat it.
    prepared(*prepared.quick("--nproc", "2", "--fresh", settings=SHORT))
    theirs = run.with_name(f"{run.name}~1")
    assert len(losses(run)) >= 20 * 6
    assert losses(run) == losses(theirs)
    ours, others = (final_weights(folder, digits_teacher) for folder in (run, theirs))
    assert all(torch.equal(ours[name], others[name]) for name in ours)


def test_srun_goes_through_the_runs_together(prepared: InsideWorkbench) -> None:
    """Rank 0 recalls the first, finds the second in other hands, and all do the third."""
    prepared(*prepared.quick(settings=TINY))
    config = load_config(prepared.only_run() / "config.json")
    second = config.model_copy(update={"seed": 1})
    taken = run_folder(open_workspace(prepared.workspace), second)
    place = ("--workspace", str(prepared.workspace))
    command = prepared.command(*prepared.quick("--seed", "0,1,2", *place, settings=TINY))
    with exclusive(taken.lock, "This test"):
        main, other = in_two_tasks(*command)
    assert (main.returncode, other.returncode) == (1, 1), (main, other)
    ranks = {row.name: row.tags["ranks"] for row in tracked_runs(prepared)}
    assert ranks == {"default-seed0": "1", "default-seed2": "2"}
    assert main.stderr.count("finished before") == 1
    assert main.stderr.count("is already running in another process") == 1
    assert "2 of 3 runs are done; the same command continues." in main.stderr
    assert (other.stdout, other.stderr) == ("", "")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("--set", "training.batch_sise=3"), "Unknown configuration key 'training.batch_sise'"),
        (("--set", "training.batch_size=3"), "training.batch_size 3 is not divisible by 2 ranks"),
        (("--nproc", "3"), "This command has 2 processes of torchrun or srun"),
        (("--seed", "0,1", "--parallel", "2"), "do one run after the other"),
    ],
)
def test_what_is_wrong_is_said_once(
    workbench: InsideWorkbench, wrong: tuple[str, ...], said: str
) -> None:
    place = ("--workspace", str(workbench.workspace))
    command = workbench.command("run", "quickstart", "--dry-run", *place, *wrong)
    main, other = in_two_tasks(*command)
    assert (main.returncode, other.returncode) == (2, 2)
    assert main.stderr.startswith("Error: ")
    assert said in main.stderr
    assert main.stderr.count("\n") == 1
    assert (other.stdout, other.stderr) == ("", "")


def test_other_commands_are_of_one_process(inside_finished: InsideWorkbench) -> None:
    place = ("--workspace", str(inside_finished.workspace))
    main, other = in_two_tasks(*inside_finished.command("runs", "list", "--json", *place))
    assert (main.returncode, other.returncode) == (0, 0), (main, other)
    assert len(json.loads(main.stdout)) == 1
    assert (other.stdout, other.stderr) == ("", "")


def test_an_evaluation_is_shared_too(prepared: InsideWorkbench) -> None:
    model = str(prepared.teacher)
    command = ("evaluate", model, "--samples", "100", "--steps", "2", "--metric", "fid", "--json")
    alone = json.loads(prepared(*command, "--reference", "digits").stdout)["table"]
    shutil.rmtree(prepared.workspace / "cache" / "features")
    place = ("--reference", "digits", "--workspace", str(prepared.workspace))
    main, other = in_two_tasks(*prepared.command(*command, *place))
    assert (main.returncode, other.returncode) == (0, 0), (main, other)
    (shared,) = json.loads(main.stdout)["table"]
    assert shared["fid"] == pytest.approx(alone[0]["fid"], rel=1e-5)
    assert (other.stdout, other.stderr) == ("", "")
