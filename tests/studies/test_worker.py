"""Trials as real runs: what they score, how they end, and what the tracking store says of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from filelock import FileLock
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tests.studies.conftest import PACE, MakeTrials
from workbench.errors import InterruptedRunError
from workbench.runs.spec import RunSpec
from workbench.studies import Choice
from workbench.studies.overview import study_view
from workbench.studies.parent import StudyRun, move_studies
from workbench.studies.trial import RUNS, TrialRunner
from workbench.studies.trials import (
    ERROR,
    Lease,
    StudyTrials,
    TrialStatus,
    attempts_at,
    status_of,
)
from workbench.studies.worker import work
from workbench.tracking import default_artifact_root, default_uri, load_record
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides
from workbench.training.run_folder import find_run, run_folder


def mlflow_runs(request: RunSpec, name: str = "small") -> tuple[Any, list[Any]]:
    """The study's own run, and its trials' runs, as MLflow's client has them."""
    from mlflow import MlflowClient

    client = MlflowClient(request.tracking_uri)
    experiment = client.get_experiment_by_name(f"study-{name}")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "study"]
    children = [run for run in runs if run.data.tags["kind"] == "run"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, sorted(children, key=lambda run: (run.data.tags["trial"], run.data.tags["seed"]))


def run_all(trials: StudyTrials, request: RunSpec) -> list[str]:
    """Work on the study in this process; what the worker said."""
    said: list[str] = []
    work(trials.storage.url, trials.spec.name, request, say=said.append)
    return said


def test_a_trial_is_the_mean_of_its_seeds_runs(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    settings = PACE.with_changes({"seeds": (0, 1), "objectives": ("fid", "alignment")})
    trials = trials_of(base, settings)
    trials.extend(1)
    run_all(trials, request_of)
    run_all(trials, request_of)  # nothing is left: nothing happens
    (trial,) = trials.all()
    rows = [
        next(
            row
            for row in find_run(request_of.workspace, name).results()["table"]
            if row["model"] == "student"
        )
        for name in trial.user_attrs[RUNS]
    ]
    assert len(rows) == 2
    assert rows[0]["fid"] != rows[1]["fid"]
    for value, name in zip(trial.values, ("fid", "alignment"), strict=True):
        assert value == pytest.approx(sum(row[name] for row in rows) / 2)
    config = find_run(request_of.workspace, trial.user_attrs[RUNS][1]).config()
    assert config.seed == 1
    assert config.method.sid_alpha == trial.params["method.sid_alpha"]

    parent, children = mlflow_runs(request_of)
    assert [run.data.tags["seed"] for run in children] == ["0", "1"]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.data.params["space.generator.noise"] == "fresh | ddim"
    assert parent.data.params["study.seeds"] == "[0, 1]"
    assert parent.data.metrics["best/alignment"] == trial.values[1]
    assert study_view(trials).best[0].number == 0


def test_what_is_a_trials_own_fault_fails_it_alone(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    """Weights that are not finite, adapters larger than any memory; and then a good one."""
    lr, rank = "training.optimizers.generator.lr", "training.lora.rank"
    space = {lr: Choice((5e-4, 1e30)), rank: Choice((2, 2**40))}
    trials = trials_of(
        with_overrides(base, ["training.max_nonfinite=1", "training.kimg=0.064"]), space=space
    )
    trials.extend(3)
    for point in ({lr: 1e30, rank: 2}, {lr: 5e-4, rank: 2**40}, {lr: 5e-4, rank: 2}):
        trials.enqueue(point)
    run_all(trials, request_of)
    nan, memory, fine = trials.all()
    assert [status_of(t) for t in (nan, memory, fine)] == [
        TrialStatus.FAILED,
        TrialStatus.FAILED,
        TrialStatus.COMPLETE,
    ]
    assert "finite" in nan.user_attrs[ERROR]
    assert "emory" in memory.user_attrs[ERROR]
    parent, children = mlflow_runs(request_of)
    assert [run.info.status for run in children] == ["FAILED", "FAILED", "FINISHED"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["trials.failed"] == "2"


def test_a_point_that_cannot_be_drawn_fails_its_trial_alone(
    trials_of: MakeTrials,
    base: RunConfig,
    request_of: RunSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sampler's arithmetic broke down; without this each worker in turn would end at it."""

    def draw(self: TrialRunner, study: object, lease: Lease, real=TrialRunner.draw) -> object:
        if lease.number == 0:
            raise np.linalg.LinAlgError("Singular matrix")
        return real(self, study, lease)

    monkeypatch.setattr(TrialRunner, "draw", draw)
    trials = trials_of(with_overrides(base, ["training.kimg=0.064"]))
    trials.extend(2)
    said = run_all(trials, request_of)
    bad, fine = trials.all()
    assert (status_of(bad), status_of(fine)) == (TrialStatus.FAILED, TrialStatus.COMPLETE)
    assert bad.user_attrs[ERROR] == "no point could be drawn: LinAlgError: Singular matrix"
    assert any("trial 0: failed. no point could be drawn" in text for text in said)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_bad_trial_is_pruned_at_its_first_evaluation(
    nproc: int, trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    """Also where its run has processes of its own, one of which asks the study."""
    trials = trials_of(base, PACE.with_changes({"pruner": "median"}))
    distributions = {
        "method.sid_alpha": FloatDistribution(0.8, 1.4),
        "generator.noise": CategoricalDistribution(("fresh", "ddim")),
    }
    for place in range(5):
        trials.study.add_trial(
            optuna.create_trial(
                params={"method.sid_alpha": 0.9 + place / 10, "generator.noise": "ddim"},
                distributions=distributions,
                value=0.1,
                intermediate_values={16: 0.1},
            )
        )
    trials.extend(6)
    said = run_all(trials, replace(request_of, nproc=nproc))
    assert said[-1] == "trial 5: pruned. Ended early at 0.016 kimg."
    assert status_of(trials.all()[5]) is TrialStatus.PRUNED
    (reported,) = trials.all()[5].intermediate_values.items()
    parent, (child,) = mlflow_runs(request_of)
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "pruned")
    assert reported == (16, child.data.metrics["eval/fid"])
    assert parent.data.tags["trials.pruned"] == "1"
    assert parent.data.metrics["best/fid"] == 0.1


def test_wilcoxon_stops_between_seeds(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    settings = PACE.with_changes({"pruner": "wilcoxon", "seeds": (0, 1, 2, 3, 4)})
    trials = trials_of(with_overrides(base, ["training.kimg=0.016"]), settings)
    trials.study.add_trial(
        optuna.create_trial(
            params={"method.sid_alpha": 1.0, "generator.noise": "ddim"},
            distributions={
                "method.sid_alpha": FloatDistribution(0.8, 1.4),
                "generator.noise": CategoricalDistribution(("fresh", "ddim")),
            },
            value=0.1,
            intermediate_values={seed: 0.1 + seed / 1000 for seed in range(5)},
        )
    )
    trials.extend(2)
    run_all(trials, request_of)
    trial = trials.all()[1]
    assert status_of(trial) is TrialStatus.PRUNED
    assert list(trial.intermediate_values) == [0, 1, 2, 3]
    _, children = mlflow_runs(request_of)
    assert [run.info.status for run in children] == ["FINISHED"] * 4


def test_a_signal_gives_the_trial_back_and_it_resumes(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    changes = ["training.kimg=0.64", "schedule.evaluate_kimg=0.16"]
    trials = trials_of(with_overrides(base, changes))
    trials.extend(1)
    runs = request_of.workspace.runs

    def interrupt() -> None:
        while not any(runs.glob("*/*/checkpoints/nimg-*16")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(InterruptedRunError, match="The same command continues"):
        run_all(trials, request_of)
    (trial,) = trials.all()
    assert (status_of(trial), attempts_at(trial)) == (TrialStatus.WAITING, 1)
    parent, (child,) = mlflow_runs(request_of)
    assert (parent.info.status, parent.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "interrupted")
    (reached,) = {max(int(p.name[5:]) for p in runs.glob("*/*/checkpoints/nimg-*"))}
    assert reached < 640

    run_all(trials, request_of)
    (done,) = trials.all()
    assert (status_of(done), done.number) == (TrialStatus.COMPLETE, trial.number)
    assert done.params == trial.params
    parent, (child,) = mlflow_runs(request_of)
    assert {parent.info.status, child.info.status} == {"FINISHED"}
    steps = sorted(int(step) for step in done.intermediate_values)
    assert steps == [160, 320, 480, 640]


def test_a_run_that_is_still_going_on_is_waited_for(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    """As when a peer thought dead only had no connection: its run is not disturbed."""
    trials = trials_of(with_overrides(base, ["training.kimg=0.016"]))
    trials.extend(2)
    runner = TrialRunner(trials.storage, trials.spec, request_of, {})
    lease = trials.lease()
    assert lease is not None
    _, point = runner.draw(trials.study, lease)
    folder = run_folder(request_of.workspace, runner.config(point, lease, 0))
    folder.lock.parent.mkdir(parents=True)
    trials.release(lease)
    said: list[str] = []
    with FileLock(folder.lock, thread_local=False) as lock:

        def hear(line: str) -> None:
            said.append(line)
            if line.startswith("trial 1: FID"):  # which the busy one does not keep waiting
                lock.release()

        work(trials.storage.url, trials.spec.name, request_of, say=hear)
    assert "Trial 0 is still being run by another process. It waits." in said
    assert trials.counts() == {TrialStatus.COMPLETE: 2}


def test_every_store_has_its_own_run_of_the_study(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    trials = trials_of(with_overrides(base, ["training.kimg=0.016"]))
    trials.extend(1)
    run_all(trials, request_of)
    parent, _ = mlflow_runs(request_of)
    elsewhere = replace(request_of, tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    StudyRun(trials, elsewhere.tracking_uri, tmp_path / "artifacts").add_files({})
    experiments = MlflowClient(elsewhere.tracking_uri).search_experiments()
    assert [e.name for e in experiments] == ["Default"]  # asking for figures makes no run
    trials.extend(2)
    run_all(trials, elsewhere)
    other, children = mlflow_runs(elsewhere)
    assert other.info.run_id != parent.info.run_id
    assert [run.data.tags["trial"] for run in children] == ["1"]
    trials.extend(3)
    run_all(trials, request_of)
    again, children = mlflow_runs(request_of)
    assert again.info.run_id == parent.info.run_id
    assert [run.data.tags["trial"] for run in children] == ["0", "2"]
    assert again.data.tags["trials.complete"] == "3"


def test_an_unreachable_tracker_fails_no_trial_and_its_runs_find_their_parent(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    from workbench.tracking import sync

    trials = trials_of(base)
    trials.extend(1)
    run_all(trials, replace(request_of, tracking_uri="http://127.0.0.1:9"))
    assert trials.counts() == {TrialStatus.COMPLETE: 1}
    for folder in request_of.workspace.runs.glob("study-small/*/"):
        assert load_record(folder) is not None
        sync(folder, to=request_of.tracking_uri)
    root = default_artifact_root(request_of.workspace.root)
    move_studies(trials.storage.url, {"study-small", "other"}, request_of.tracking_uri, root)
    parent, children = mlflow_runs(request_of)
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [parent.info.run_id]
    assert (parent.info.status, parent.data.tags["trials.complete"]) == ("FINISHED", "1")
    trials.extend(2)
    run_all(trials, request_of)
    parent, children = mlflow_runs(request_of)
    assert len(children) == 2
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {parent.info.run_id}
    assert parent.data.tags["trials.complete"] == "2"

    # Moved to another store, where their parent has another number.
    there = default_uri(request_of.workspace.root / "there")
    for folder in request_of.workspace.runs.glob("study-small/*/"):
        sync(folder, to=there)
    move_studies(trials.storage.url, {"study-small"}, there, root)
    moved, children = mlflow_runs(replace(request_of, tracking_uri=there))
    assert moved.info.run_id != parent.info.run_id
    assert [run.data.tags["mlflow.parentRunId"] for run in children] == [moved.info.run_id] * 2
