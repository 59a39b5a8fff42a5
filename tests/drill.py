"""The fault drill: many workers, one study on PostgreSQL, kill -9 and a database that crashes.

`make drill` runs it in full (8 workers, 200 trials, two killed, one crash); the test suite runs it
small. Every trial is a real run, tracked into MLflow on the same PostgreSQL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from tests.conftest import SHARED_FOLDER, SMALL_RECIPES
from tests.drill_journal import check_work, read_journal, stints
from tests.services import Postgres
from workbench.data.bundled import BUNDLED
from workbench.evaluation.digits_classifier import load_or_train
from workbench.studies import Choice, Real, StudySettings, StudySpec
from workbench.studies.storage import ENVIRONMENT_VARIABLE, StudyStorage
from workbench.studies.study import create_or_continue
from workbench.studies.trials import WORKER, StudyTrials, attempts_at
from workbench.teachers import build_from_recipe
from workbench.teachers.catalog import default_teacher
from workbench.tracking import default_artifact_root, ensure_store
from workbench.training.config import RunConfig
from workbench.training.recipes import recipe_for, run_config
from workbench.training.run_folder import all_runs
from workbench.workspace import Workspace, open_workspace

NAME = "drill"
_ROOT = Path(__file__).parent.parent
BRIEF = (
    "training.kimg=0.032",
    "training.batch_size=16",
    "schedule.evaluate_kimg=0.016",
    "schedule.checkpoint_kimg=0.016",
    "evaluation.samples=20",
    "evaluation.teacher_steps=[2]",
)
"""A run of two iterations: its time goes into loading, evaluating, drawing and tracking."""

SPACE = {"method.sid_alpha": Real(0.8, 1.4), "generator.noise": Choice(("fresh", "ddim"))}


def brief_config(teacher: Path) -> RunConfig:
    """Such a run of a teacher's folder, on the embedded teachers' recipe."""
    recipe = recipe_for(default_teacher()).name
    return run_config(f"teacher={teacher}", f"recipe={recipe}", *BRIEF)


@dataclass(frozen=True)
class Plan:
    """How many of what; workers are killed while they run a trial, one after the other."""

    workers: int
    trials: int
    kills: int
    grace_s: int
    timeout: float


FULL = Plan(workers=8, trials=200, kills=2, grace_s=15, timeout=3600.0)


class Drill:
    """One drill in a workspace of its own.

    Args:
        evaluation_cache: a workspace's cache that holds the digits classifier.
    """

    def __init__(self, plan: Plan, postgres: Postgres, workspace: Workspace, teacher: Path) -> None:
        self.plan, self.postgres, self.workspace = plan, postgres, workspace
        self.storage_url = postgres.create_database(f"{NAME}_optuna")
        self.tracking_uri = postgres.create_database(f"{NAME}_mlflow")
        ensure_store(self.tracking_uri, default_artifact_root(workspace.root))
        base = brief_config(teacher)
        settings = StudySettings(
            heartbeat_s=1, grace_s=plan.grace_s, sampler="random", pruner="none"
        )
        spec = StudySpec(NAME, "quickstart", base, SPACE, settings)
        storage = StudyStorage(self.storage_url)
        self.trials = StudyTrials(storage, create_or_continue(storage, spec))
        self.trials.extend(plan.trials)
        self.journal = workspace.root / "journal.jsonl"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: list[tuple[str, int]] = []

    def run(self) -> None:
        """Work, kill, crash, and wait for the workers that are left.

        Raises:
            AssertionError: a worker ended badly, or the study did not end in time.
        """
        host = os.uname().nodename
        for index in range(self.plan.workers):
            process = self._start(index)
            self.processes[f"{host}:{process.pid}"] = process
        deadline = time.monotonic() + self.plan.timeout
        events = self.plan.kills + 1
        for event in range(1, events + 1):
            self._wait_for(self.plan.trials * event // (events + 1), deadline)
            if event == self.plan.kills:  # the last kill meets the crash
                self.postgres.restart(crash=True)
            if event <= self.plan.kills:
                self._kill_one(deadline)
        for name, process in self.processes.items():
            if name not in {worker for worker, _ in self.killed}:
                code = process.wait(timeout=max(1.0, deadline - time.monotonic()))
                assert code == 0, f"{name} ended with {code}: {self._logs()}"

    def stop(self) -> None:
        """Ends what is still running of this drill."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def records(self) -> list[FrozenTrial]:
        """Every trial by number, however often it was taken up."""
        return self.trials.storage.patiently(self.trials.all)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        witness = ["-m", "tests.drill_journal", str(self.journal)]
        command = [sys.executable, *witness, "studies", "worker", NAME]
        environment = {
            **os.environ,
            ENVIRONMENT_VARIABLE: self.storage_url,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "WORKBENCH_WORKSPACE": str(self.workspace.root),
            "OMP_NUM_THREADS": "1",
        }
        with (self.workspace.root / f"worker{index}.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=_ROOT)

    def _wait_for(self, ended: int, deadline: float) -> None:
        while sum(trial.state is TrialState.COMPLETE for trial in self.records()) < ended:
            assert time.monotonic() < deadline, f"{ended} trials never ended: {self._logs()}"
            assert any(p.poll() is None for p in self.processes.values()), self._logs()
            time.sleep(0.1)

    def _kill_one(self, deadline: float) -> None:
        """SIGKILL to a worker in the middle of a run, which never says another word."""
        while time.monotonic() < deadline:
            for name, number in self._training():
                process = self.processes[name]
                if process.poll() is not None or not self._holds(name, number):
                    continue
                process.send_signal(signal.SIGKILL)
                process.wait()
                # It may have ended the trial in the last instant; then the next one.
                held = self._holds(name, number)
                self.killed.append((name, number if held else -1))
                if held:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no worker could be killed in time: {self._logs()}")

    def _training(self) -> list[tuple[str, int]]:
        """Workers whose last word was of a checkpoint that they had written, and the trial.

        Not of the last one: a run that has its results leaves nothing to resume.
        """
        last = {moment.pid: moment for moment in read_journal(self.journal)}
        host, total = os.uname().nodename, self.trials.spec.base.total_nimg
        return [
            (f"{host}:{pid}", moment.trial)
            for pid, moment in last.items()
            if moment.nimg and moment.nimg < total
        ]

    def _holds(self, name: str, number: int) -> bool:
        """Whether the trial is that worker's now: not yet ended, nor taken for lost."""
        trial = {t.number: t for t in self.records()}[number]
        return trial.state is TrialState.RUNNING and trial.user_attrs.get(WORKER) == name

    def _logs(self) -> str:
        files = sorted(self.workspace.root.glob("worker*.log"))
        return "\n".join(f"{file.name}: {file.read_text()[-1500:]}" for file in files)


def check(drill: Drill) -> dict[str, Any]:
    """Asserts that nothing was lost, nothing done twice, and MLflow says the same; the counts."""
    trials, count = drill.records(), len(drill.records())
    # Workers at a database that crashes may each begin one more.
    assert drill.plan.trials <= count < drill.plan.trials + drill.plan.workers
    assert [trial.number for trial in trials] == list(range(count))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert count == len(drill.trials.study.get_trials(deepcopy=False))
    lost = sorted(trial.number for trial in trials if attempts_at(trial) > 1)
    killed = {number for _, number in drill.killed if number >= 0}
    assert len(killed) == drill.plan.kills
    assert set(lost) >= killed
    resumed = check_journal(drill, count)
    assert set(resumed) >= killed

    # One folder a trial: whoever took one up resumed its run instead of starting another.
    runs = list(all_runs(drill.workspace))
    assert len(runs) == count
    assert all(run.results() is not None for run in runs)
    return {"trials": count, "lost": lost, "resumed": resumed, **check_mlflow(drill, trials)}


def check_journal(drill: Drill, count: int) -> list[int]:
    """Asserts by the workers' own words that no image was trained twice; the resumed trials."""
    work = stints(read_journal(drill.journal))
    assert set(work) == set(range(count))
    base = drill.trials.spec.base
    check_work(work, base.total_nimg, base.training.batch_size)
    return sorted(number for number, own in work.items() if len(own) > 1)


def check_mlflow(drill: Drill, trials: list[FrozenTrial]) -> dict[str, Any]:
    """Asserts one finished parent with every trial's run as its finished child, once."""
    from mlflow import MlflowClient

    client = MlflowClient(drill.tracking_uri)
    experiment = client.get_experiment_by_name(f"study-{NAME}")
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    parents = [run for run in runs if run.data.tags["kind"] == "study"]
    children = [run for run in runs if run.data.tags["kind"] == "run"]
    (parent,) = parents
    assert (parent.info.status, parent.data.tags["outcome"]) == ("FINISHED", "finished")
    assert {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.tags["outcome"] for run in children} == {"finished"}
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    values = {trial.number: trial.values[0] for trial in trials}
    assert sorted(int(run.data.tags["trial"]) for run in children) == sorted(values)
    budget = drill.trials.spec.base.total_nimg
    for run in children:
        points = client.get_metric_history(run.info.run_id, "eval/fid")
        assert sorted(point.step for point in points) == list(range(0, budget + 1, budget // 2))
        assert run.data.metrics["table/student_4_fid"] == values[int(run.data.tags["trial"])]
    assert parent.data.tags["trials.complete"] == str(len(trials))
    history = client.get_metric_history(parent.info.run_id, "best/fid")
    assert sorted(point.step for point in history) == list(range(1, len(trials) + 1))
    assert parent.data.metrics["best/fid"] == min(values.values())
    return {"parents": len(parents), "children": len(children)}


def main() -> None:
    """The full drill, on services of its own; prints what it found."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="workbench-drill-") as folder, Postgres() as server:
        kind, teachers = "SanaPipeline", os.environ.get(SHARED_FOLDER, f"{folder}/teachers")
        teacher = build_from_recipe(
            f"tests-{kind}", SMALL_RECIPES[kind], Path(teachers), data=BUNDLED["digits"]
        )
        workspace = open_workspace(Path(folder) / "workspace")
        load_or_train(workspace.cache)
        drill = Drill(FULL, server, workspace, teacher)
        try:
            drill.run()
        finally:
            drill.stop()
        found = check(drill)
    sys.stdout.write(json.dumps({**found, "seconds": round(time.monotonic() - began)}) + "\n")


if __name__ == "__main__":
    main()
