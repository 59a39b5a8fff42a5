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
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tests.studies.conftest import PACE, MakeQueue
from workbench.errors import InterruptedRunError
from workbench.runs import RunRequest, find_run
from workbench.studies import Choice
from workbench.studies.overview import view
from workbench.studies.parent import StudyRun
from workbench.studies.queue import ERROR, Claim, TicketState, TrialQueue
from workbench.studies.trial import RUNS, TrialRunner
from workbench.studies.worker import work
from workbench.tracking import load_record
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides


def mlflow_runs(request: RunRequest, name: str = "small") -> tuple[Any, list[Any]]:
    """The study's own run, and its trials' runs, as MLflow's client has them."""
    from mlflow import MlflowClient

    client = MlflowClient(request.tracking_uri)
    experiment = client.get_experiment_by_name(f"study-{name}")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["kind"] == "study"]
    children = [run for run in runs if run.data.tags["kind"] == "run"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} <= {parent.info.run_id}
    return parent, sorted(children, key=lambda run: (run.data.tags["trial"], run.data.tags["seed"]))


def run_all(queue: TrialQueue, request: RunRequest) -> list[str]:
    """Work on the study in this process; what the worker said."""
    said: list[str] = []
    work(queue.storage.url, queue.spec.name, request, said.append)
    return said


def test_a_trial_is_the_mean_of_its_seeds_runs(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    settings = PACE.with_changes({"seeds": (0, 1), "objectives": ("fid", "alignment")})
    queue = queue_of(base, settings)
    queue.fill(1)
    run_all(queue, request_of)
    run_all(queue, request_of)  # nothing is left: nothing happens
    (ticket,) = queue.tickets()
    rows = [
        next(
            row
            for row in find_run(request_of.workspace, name).results()["table"]
            if row["model"] == "student"
        )
        for name in ticket.trial.user_attrs[RUNS]
    ]
    assert len(rows) == 2
    assert rows[0]["fid"] != rows[1]["fid"]
    for value, name in zip(ticket.trial.values, ("fid", "alignment"), strict=True):
        assert value == pytest.approx(sum(row[name] for row in rows) / 2)
    config = find_run(request_of.workspace, ticket.trial.user_attrs[RUNS][1]).config()
    assert config.seed == 1
    assert config.method.sid_alpha == ticket.trial.params["method.sid_alpha"]

    parent, children = mlflow_runs(request_of)
    assert [run.data.tags["seed"] for run in children] == ["0", "1"]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert parent.data.params["space.generator.noise"] == "fresh | ddim"
    assert parent.data.params["study.seeds"] == "[0, 1]"
    assert parent.data.metrics["best/alignment"] == ticket.trial.values[1]
    assert view(queue.spec, queue.tickets()).best[0].number == 0


def test_what_is_a_trials_own_fault_fails_it_alone(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    """Weights that are not finite, adapters larger than any memory; and then a good one."""
    lr, rank = "training.optimizers.generator.lr", "training.lora.rank"
    space = {lr: Choice((5e-4, 1e30)), rank: Choice((2, 2**40))}
    queue = queue_of(
        with_overrides(base, ["training.max_nonfinite=1", "training.kimg=0.064"]), space=space
    )
    queue.fill(3)
    for point in ({lr: 1e30, rank: 2}, {lr: 5e-4, rank: 2**40}, {lr: 5e-4, rank: 2}):
        queue.enqueue(point)
    run_all(queue, request_of)
    nan, memory, fine = queue.tickets()
    assert [t.state for t in (nan, memory, fine)] == [
        TicketState.FAILED,
        TicketState.FAILED,
        TicketState.COMPLETE,
    ]
    assert "finite" in nan.trial.user_attrs[ERROR]
    assert "emory" in memory.trial.user_attrs[ERROR]
    parent, children = mlflow_runs(request_of)
    assert [run.info.status for run in children] == ["FAILED", "FAILED", "FINISHED"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["trials.failed"] == "2"


def test_a_point_that_cannot_be_drawn_fails_its_trial_alone(
    queue_of: MakeQueue,
    base: RunConfig,
    request_of: RunRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sampler's arithmetic broke down; without this each worker in turn would end at it."""

    def draw(self: TrialRunner, study: object, claim: Claim, real=TrialRunner.draw) -> object:
        if claim.ticket == 0:
            raise np.linalg.LinAlgError("Singular matrix")
        return real(self, study, claim)

    monkeypatch.setattr(TrialRunner, "draw", draw)
    queue = queue_of(with_overrides(base, ["training.kimg=0.064"]))
    queue.fill(2)
    said = run_all(queue, request_of)
    bad, fine = queue.tickets()
    assert (bad.state, fine.state) == (TicketState.FAILED, TicketState.COMPLETE)
    assert bad.trial.user_attrs[ERROR] == "no point could be drawn: LinAlgError: Singular matrix"
    assert any("trial 0: failed. no point could be drawn" in text for text in said)


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_bad_trial_is_pruned_at_its_first_evaluation(
    nproc: int, queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    """Also where its run has processes of its own, one of which asks the study."""
    queue = queue_of(base, PACE.with_changes({"pruner": "median"}))
    distributions = {
        "method.sid_alpha": FloatDistribution(0.8, 1.4),
        "generator.noise": CategoricalDistribution(("fresh", "ddim")),
    }
    for place in range(5):
        queue.study.add_trial(
            optuna.create_trial(
                params={"method.sid_alpha": 0.9 + place / 10, "generator.noise": "ddim"},
                distributions=distributions,
                value=0.1,
                intermediate_values={16: 0.1},
            )
        )
    queue.fill(6)
    said = run_all(queue, replace(request_of, nproc=nproc))
    assert said[-1] == "trial 5: pruned. Ended early at 0.016 kimg."
    assert queue.tickets()[5].state is TicketState.PRUNED
    (reported,) = queue.tickets()[5].trial.intermediate_values.items()
    parent, (child,) = mlflow_runs(request_of)
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "pruned")
    assert reported == (16, child.data.metrics["eval/fid"])
    assert parent.data.tags["trials.pruned"] == "1"
    assert parent.data.metrics["best/fid"] == 0.1


def test_wilcoxon_stops_between_seeds(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    settings = PACE.with_changes({"pruner": "wilcoxon", "seeds": (0, 1, 2, 3, 4)})
    queue = queue_of(with_overrides(base, ["training.kimg=0.016"]), settings)
    queue.study.add_trial(
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
    queue.fill(2)
    run_all(queue, request_of)
    ticket = queue.tickets()[1]
    assert ticket.state is TicketState.PRUNED
    assert list(ticket.trial.intermediate_values) == [0, 1, 2, 3]
    _, children = mlflow_runs(request_of)
    assert [run.info.status for run in children] == ["FINISHED"] * 4


def test_a_signal_gives_the_trial_back_and_it_resumes(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    queue = queue_of(with_overrides(base, ["training.kimg=0.64"]))
    queue.fill(1)
    runs = request_of.workspace.runs

    def interrupt() -> None:
        while not any(runs.glob("*/*/checkpoints/nimg-*16")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(InterruptedRunError, match="The same command continues"):
        run_all(queue, request_of)
    (ticket,) = queue.tickets()
    assert (ticket.state, ticket.attempts) == (TicketState.WAITING, 1)
    parent, (child,) = mlflow_runs(request_of)
    assert (parent.info.status, parent.data.tags["outcome"]) == ("KILLED", "interrupted")
    assert (child.info.status, child.data.tags["outcome"]) == ("KILLED", "interrupted")
    (reached,) = {max(int(p.name[5:]) for p in runs.glob("*/*/checkpoints/nimg-*"))}
    assert reached < 640

    run_all(queue, request_of)
    (done,) = queue.tickets()
    assert (done.state, done.trial.number) == (TicketState.COMPLETE, ticket.trial.number)
    assert done.trial.params == ticket.trial.params
    parent, (child,) = mlflow_runs(request_of)
    assert {parent.info.status, child.info.status} == {"FINISHED"}
    steps = sorted(int(step) for step in done.trial.intermediate_values)
    assert steps == list(range(16, 641, 16))


def test_a_run_that_is_still_going_on_is_waited_for(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    """As when a peer thought dead only had no connection: its run is recalled, not disturbed."""
    from filelock import FileLock

    queue = queue_of(with_overrides(base, ["training.kimg=0.016"]))
    queue.fill(1)
    run_all(queue, request_of)
    value = queue.tickets()[0].trial.values
    folder = find_run(request_of.workspace, queue.tickets()[0].trial.user_attrs[RUNS][0])
    # The same ticket once more, on the same folder, while somebody holds it.
    system = {"failed_trial": 0, "retry_history": [0]}
    params = queue.tickets()[0].trial.params
    distributions = queue.tickets()[0].trial.distributions
    queue.study.add_trial(
        optuna.create_trial(
            state=optuna.trial.TrialState.WAITING,
            params=params,
            distributions=distributions,
            system_attrs=system,
        )
    )
    queue.fill(2)  # a second one, which the busy one must not keep waiting
    lock = FileLock(folder.lock, thread_local=False)
    lock.acquire()
    timer = threading.Timer(60.0, lock.release)
    timer.start()
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if line.startswith("trial 1: FID"):
            timer.cancel()
            lock.release()

    work(queue.storage.url, queue.spec.name, request_of, hear)
    assert any("still being run by another process" in line for line in said)
    assert not timer.is_alive()
    assert queue.tickets()[0].state is TicketState.COMPLETE
    assert queue.tickets()[0].trial.values == value


def test_every_store_has_its_own_run_of_the_study(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    queue = queue_of(with_overrides(base, ["training.kimg=0.016"]))
    queue.fill(1)
    run_all(queue, request_of)
    parent, _ = mlflow_runs(request_of)
    elsewhere = replace(request_of, tracking_uri=f"sqlite:///{tmp_path / 'other.db'}")
    StudyRun(queue, elsewhere.tracking_uri, tmp_path / "artifacts").add_files({})
    experiments = MlflowClient(elsewhere.tracking_uri).search_experiments()
    assert [e.name for e in experiments] == ["Default"]  # asking for figures makes no run
    queue.fill(2)
    run_all(queue, elsewhere)
    other, children = mlflow_runs(elsewhere)
    assert other.info.run_id != parent.info.run_id
    assert [run.data.tags["trial"] for run in children] == ["1"]
    queue.fill(3)
    run_all(queue, request_of)
    again, children = mlflow_runs(request_of)
    assert again.info.run_id == parent.info.run_id
    assert [run.data.tags["trial"] for run in children] == ["0", "2"]
    assert again.data.tags["trials.complete"] == "3"


def test_an_unreachable_tracker_fails_no_trial_and_its_runs_find_their_parent(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    from workbench.tracking import sync

    queue = queue_of(base)
    queue.fill(1)
    run_all(queue, replace(request_of, tracking_uri="http://127.0.0.1:9"))
    assert queue.counts() == {TicketState.COMPLETE: 1}
    for folder in request_of.workspace.runs.glob("study-small/*/"):
        assert load_record(folder) is not None
        sync(folder, to=request_of.tracking_uri)
    queue.fill(2)
    run_all(queue, request_of)
    parent, children = mlflow_runs(request_of)
    assert len(children) == 2
    assert {run.data.tags.get("mlflow.parentRunId") for run in children} == {parent.info.run_id}
    assert parent.data.tags["trials.complete"] == "2"
