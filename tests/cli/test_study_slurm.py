"""A study whose workers are Slurm jobs: submitit's own scripts and tasks, on a cluster of scripts.

The cluster's commands are stand-ins that start a job's script on this machine and signal it.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.cli.conftest import InsideWorkbench
from tests.cli.test_study import searched, study_run
from workbench.launching.slurm import SlurmLauncher
from workbench.launching.slurm_task import exit_file_of

pytest.importorskip("submitit")
__all__ = ["searched"]

COMMANDS = {
    "sbatch": """
        id=$((1000 + $(ls "$CLUSTER" | wc -l)))
        export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_JOB_NODELIST=localhost
        export SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
        touch "$CLUSTER/$id.job"
        (setsid bash "${@: -1}"; echo $? > "$CLUSTER/$id.code") < /dev/null > /dev/null 2>&1 &
        echo "Submitted batch job $id"
    """,
    "srun": """
        echo $$ > "$CLUSTER/$SLURM_JOB_ID.pid"
        while [ "$1" != "$PYTHON" ]; do shift; done
        exec "$@"
    """,
    "squeue": """
        for job in "$CLUSTER"/*.job; do
            code=$(cat "${job%.job}.code" 2> /dev/null)
            case "$code" in "") state=RUNNING;; 0) state=COMPLETED;; *) state=FAILED;; esac
            echo "$(basename "$job" .job) $state"
        done
    """,
    "scancel": """
        [ "$1" = --signal=USR1 ] && kill -USR1 "$(cat "$CLUSTER/$2.pid")" || true
    """,
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands on the PATH; a folder with what became of each job."""
    programs, state = tmp_path / "programs", tmp_path / "cluster"
    programs.mkdir()
    state.mkdir()
    for name, script in COMMANDS.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CLUSTER", str(state))
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setattr(SlurmLauncher.__init__, "__defaults__", (0.5,))
    return state


def test_workers_are_slurm_jobs_that_stop_and_go_on(
    searched: InsideWorkbench, cluster: Path
) -> None:
    slow = ("training.kimg=0.32", "schedule.evaluate_kimg=0.32")
    how = ("--launcher", "slurm", "--slurm", "gpus-per-node=0", "--slurm", "time=10")
    arguments = study_run(searched, "--trials", "2", "--workers", "2", *how, settings=slow)
    refused = searched(*arguments, code=2).stderr
    assert "name one by --storage and --tracking-uri" in refused
    assert "postgresql://USER@HOST/DATABASE" in refused
    assert refused.count("\n") == 1
    assert not (searched.workspace / "optuna.db").exists()

    reached, deadline = searched.nimg_reached(32), time.monotonic() + 120

    def interrupt() -> None:
        while not reached() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=interrupt)
    watching.start()
    stopped = searched(*arguments, "--shared-sqlite", code=1).stderr
    watching.join()
    assert "Stopped; running trials wait with their checkpoints." in stopped
    jobs = sorted(cluster.glob("*.job"))
    assert len(jobs) == 2
    assert searched.json("studies", "status", "searched")["counts"]["waiting"] == 2

    done = searched.json(*arguments, "--shared-sqlite")
    assert done["counts"]["complete"] == 2
    assert [best["attempts"] for best in done["best"]] == [1]
    again = [job for job in sorted(cluster.glob("*.job")) if job not in jobs]
    folder = searched.workspace / "jobs" / "study-searched.v1" / "slurm"
    assert {exit_file_of(folder, job.stem).read_text() for job in again} == {"0\n"}
    names = {path.name for path in folder.glob("*.job")}
    assert names <= {"searched.v1-worker1.job", "searched.v1-worker2.job"}
    # What the nodes read from disk holds no address: it may hold a password.
    pickles = [path.read_bytes() for path in folder.glob("*submitted.pkl")]
    assert pickles
    assert all(b"sqlite:///" not in content for content in pickles)
