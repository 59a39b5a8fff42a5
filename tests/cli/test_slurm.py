"""Runs under submitit's tasks: preempted as a cluster does it, and what sbatch is asked for.

A whole Slurm is a drill, not a test: docs/slurm.md says what was tried on one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench, Workbench
from tests.cli.test_run import KEYS, final_weights, points_in_mlflow
from tests.cli.test_torchrun import SHORT
from workbench.errors import RequestError
from workbench.launching.slurm import SlurmLauncher, SlurmSettings, slurm_settings
from workbench.launching.slurm_task import SlurmTask, exit_file_of
from workbench.runs.spec import RunSpec
from workbench.tracking import default_uri, list_runs
from workbench.training.config import RunConfig, load_config
from workbench.workspace import open_workspace

submitit = pytest.importorskip("submitit")


def task_of(controller: int) -> psutil.Process:
    """submitit's task below its local controller."""
    (task,) = psutil.Process(controller).children()
    return task


def signal_all(task: psutil.Process, number: signal.Signals) -> None:
    """As Slurm does without control groups: every process of the job hears it."""
    for process in [*task.children(recursive=True), task]:
        process.send_signal(number)


def submit(job: RunSpec, monkeypatch: pytest.MonkeyPatch) -> submitit.LocalJob[None]:
    """To submitit's local executor, which starts, re-queues and starts again like Slurm."""
    job.write()
    for name, value in job.environment().items():
        monkeypatch.setenv(name, value)
    executor = submitit.LocalExecutor(job.log.parent / "slurm")
    executor.update_parameters(timeout_min=10, stderr_to_stdout=True)
    return executor.submit(SlurmTask.of(job, 80))


def wait_for_end(submitted: submitit.LocalJob[None]) -> None:
    deadline = time.monotonic() + 400
    while not submitted.done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_preemption_changes_nothing(
    prepared: InsideWorkbench,
    finished: Workbench,
    digits_teacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGTERM and USR2 midway: the run saves itself, is re-queued, and ends with the same bits.

    It was asked to start afresh, which it must do once only.
    """
    config = load_config(finished.only_run() / "config.json")
    place = open_workspace(prepared.workspace)
    job = RunSpec(config, place, default_uri(place.root), fresh=True)
    submitted = submit(job, monkeypatch)
    reached = prepared.nimg_reached(320)
    while not reached():
        assert not submitted.done(), job.log.read_text()
        time.sleep(0.01)
    task = task_of(submitted._process.pid)
    signal_all(task, signal.SIGTERM)
    signal_all(task, signal.SIGUSR2)
    wait_for_end(submitted)

    said = job.log.read_text()
    assert said.count("the checkpoint is written. The same command continues") == 1
    assert "Resuming at" in said
    assert "is kept as" not in said
    assert "Requeued job" in submitted.paths.stdout.read_text()
    assert exit_file_of(submitted.paths.folder, submitted.job_id).read_text() == "0\n"
    (tracked,) = list_runs(default_uri(place.root), config.experiment)
    assert tracked.status == "FINISHED"
    expected = final_weights(finished.only_run(), digits_teacher)
    ours = final_weights(prepared.only_run(), digits_teacher)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    points, reference = points_in_mlflow(prepared), points_in_mlflow(finished)
    assert {key: points[key] for key in KEYS} == {key: reference[key] for key in KEYS}


TASK = """
import sys
from pathlib import Path
from workbench.runs.spec import RunSpec
from workbench.launching.slurm_task import SlurmTask
from workbench.training.config import RunConfig
from workbench.workspace import Workspace

COMMAND = '''
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("ready, fresh:", sys.argv[1], flush=True)
time.sleep(60)
'''

class Sleeper(RunSpec):
    def command(self):
        return [sys.executable, "-c", COMMAND, str(self.fresh)]

job = Sleeper(RunConfig(), Workspace(Path(sys.argv[1])), "", fresh=True)
job.write()
print(job.log, flush=True)
SlurmTask(job, tuple(sys.argv[2:]), 30)()
"""


class Task:
    """A submitit task's process whose run only waits to be asked, and then ends with 3."""

    def __init__(self, folder: Path, *needs: str, restarts: str = "0") -> None:
        folder.mkdir(exist_ok=True)
        marks = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "7"}
        marks |= {"SLURM_RESTART_COUNT": restarts}  # Slurm sets it in a re-queued job
        self.process = subprocess.Popen(
            [sys.executable, "-c", TASK, str(folder), *needs],
            env={**os.environ, **marks, "SUBMITIT_FOLDER": str(folder)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.log = Path(self.process.stdout.readline().strip())
        self.exit_file = exit_file_of(folder, "7")

    def wait_until_it_runs(self) -> None:
        while not (self.log.exists() and self.log.read_text().endswith("\n")):
            assert self.process.poll() is None
            time.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        return self.process.wait(timeout=60)


def test_a_person_stops_it_and_slurm_has_the_last_word(tmp_path: Path) -> None:
    stopped = Task(tmp_path / "stopped")
    stopped.wait_until_it_runs()
    stopped.tell(signal.SIGUSR1)
    assert stopped.ended() == 3
    assert "fresh: True" in stopped.log.read_text()
    assert stopped.exit_file.read_text() == "3\n"

    held = Task(tmp_path / "held", restarts="1")
    held.wait_until_it_runs()
    held.tell(signal.SIGTERM)  # the run ends, its task waits to be killed or re-queued
    run = psutil.Process(held.process.pid).children()
    psutil.wait_procs(run, timeout=30)
    time.sleep(1)
    assert held.process.poll() is None
    held.tell(signal.SIGUSR1)
    assert held.ended() == 3
    assert "fresh: False" in held.log.read_text()


NODE = """
import sys
from pathlib import Path
from workbench.runs.spec import RunSpec
from workbench.launching.slurm_task import SlurmTask
from workbench.training.config import load_config
from workbench.workspace import open_workspace

config, place = load_config(Path(sys.argv[1])), open_workspace(Path(sys.argv[2]))
SlurmTask.of(RunSpec(config, place, ""), 80)()
"""


def two_nodes(config: Path, workbench: Workbench) -> list[subprocess.Popen[bytes]]:
    """submitit's tasks of a job on two nodes, which are both this machine."""
    marks = {
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_FOLDER": str(config.parent),
        "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
        "SUBMITIT_LOCAL_JOB_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",  # of the step whose tasks these are: torchrun says its own
        "MLFLOW_TRACKING_URI": default_uri(workbench.workspace),
    }
    command = [sys.executable, "-c", NODE, str(config), str(workbench.workspace)]
    return [
        subprocess.Popen(command, env={**os.environ, **marks, "SUBMITIT_LOCAL_GLOBALID": node})
        for node in ("0", "1")
    ]


def test_two_nodes_are_two_ranks_and_save_themselves_together(
    prepared: InsideWorkbench, tmp_path: Path
) -> None:
    plan = prepared(*prepared.quick("--dry-run", "--json", settings=SHORT)).stdout
    file = tmp_path / "config.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(plan).items() if k != "origins"}))
    job = RunSpec(load_config(file), open_workspace(prepared.workspace), "")
    job.write()
    tasks = two_nodes(file, prepared)
    reached = prepared.nimg_reached(160)
    while not reached():
        assert [task.poll() for task in tasks] == [None, None], job.log.read_text()
        time.sleep(0.05)
    for task in tasks:
        task.send_signal(signal.SIGUSR1)
    assert [task.wait(timeout=100) for task in tasks] == [1, 1]
    assert job.log.read_text().count("the checkpoint is written. The same command continues") == 1
    assert [task.wait(timeout=400) for task in two_nodes(file, prepared)] == [0, 0]
    assert job.log.read_text().count("Resuming at") == 1
    (tracked,) = list_runs(default_uri(prepared.workspace), "quickstart", where=ONLY_RUNS)
    assert (tracked.status, tracked.tags["ranks"]) == ("FINISHED", "2")


def test_what_did_not_travel_is_named(tmp_path: Path) -> None:
    task = Task(tmp_path, "A_NAME_THAT_NOBODY_SET")
    assert task.ended() == 2
    assert "A_NAME_THAT_NOBODY_SET did not reach the job" in task.log.read_text()


def test_sbatch_is_asked_for_what_was_said(tmp_path: Path) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    settings = slurm_settings(
        ["partition=gpu", "time=90", "nodes=2", "cpus-per-task=8", "extra.constraint=a100"]
    )
    secret = "postgresql://me:secret@host/db"
    job = RunSpec(RunConfig(), open_workspace(tmp_path / "workspace"), secret, nproc=4)
    text = _make_sbatch_string("COMMAND", tmp_path, **settings.parameters(job))
    for flag in (
        *("partition=gpu", "time=90", "nodes=2", "cpus-per-task=8", "constraint=a100", "requeue"),
        *("gpus-per-node=4", "ntasks-per-node=1", "signal=USR2@120", "open-mode=append"),
    ):
        assert f"#SBATCH --{flag}\n" in text
    assert "srun" in text
    assert "--cpus-per-task=8 COMMAND" in text
    cpu = SlurmSettings(gpus_per_node=0)
    assert "gpus" not in _make_sbatch_string("COMMAND", tmp_path, **cpu.parameters(job))
    # What is written for the nodes to read holds no password.
    submitit.helpers.DelayedSubmission(SlurmTask.of(job, 100)).dump(tmp_path / "pickle")
    assert b"secret" not in (tmp_path / "pickle").read_bytes() + text.encode()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("partiton=gpu", "Did you mean 'partition'?"),
        ("time=2:00:00", "Slurm option time: Input should be a valid integer"),
        ("time=0", "Slurm option time: Input should be greater than 0 (got '0')."),
        ("mem=lots", "Slurm option mem: "),
        ("partition", "'partition' is not KEY=VALUE"),
        ("extra.signal=INT@5", "signal: use signal_delay"),
        ("extra.cpus-per-task=5", "cpus-per-task is no extra option"),
    ],
)
def test_wrong_options_are_one_line(assignment: str, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        slurm_settings([assignment])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    job = RunSpec(RunConfig(), open_workspace(tmp_path / "workspace"), "")
    with pytest.raises(RequestError, match="No srun on this machine"):
        SlurmLauncher(SlurmSettings()).start(job)
