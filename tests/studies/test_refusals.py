"""What a machine cannot do waits for another one; what the settings make impossible fails alone."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.studies.conftest import PACE, MakeTrials
from workbench.errors import MachineError, RequestError
from workbench.runs.spec import RunSpec
from workbench.studies import Choice
from workbench.studies.overview import study_view
from workbench.studies.trials import (
    ERROR,
    REFUSAL,
    StudyTrials,
    TrialStatus,
    attempts_at,
    status_of,
)
from workbench.studies.worker import SETBACKS, work
from workbench.training.checkpoint import CheckpointError, UnwrittenCheckpointError
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides


def run_all(trials: StudyTrials, request: RunSpec, **how: Any) -> list[str]:
    """Work on the study in this process; what the worker said."""
    said: list[str] = []
    work(trials.storage.url, trials.spec.name, request, say=said.append, **how)
    return said


def ends_at(trials: StudyTrials, request: RunSpec, number: int, message: str, **how: Any) -> None:
    """Asserts that a worker ends with one line, at a trial that then waits as it was."""
    with pytest.raises(RequestError, match=message) as caught:
        run_all(trials, request, **how)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"Trial {number} waits for a worker that can run it.")
    found = trials.all()[number]
    assert (status_of(found), attempts_at(found)) == (TrialStatus.WAITING, 1)
    assert SETBACKS not in found.user_attrs
    (shown,) = [t for t in study_view(trials).refused if t.number == number]
    assert shown.error is not None
    assert str(caught.value).partition(" Trial ")[0].rstrip(".") in shown.error


def test_a_machine_without_the_teacher_leaves_the_study_to_others(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    def nowhere(name: str, folder: Path) -> Path:
        raise RequestError(f"The teacher {name!r} is no folder.")

    trials = trials_of(
        with_overrides(base, ["training.kimg=0.016"]), PACE.with_changes({"retries": 0})
    )
    trials.extend(2)
    ends_at(trials, request_of, 0, "is no folder", find_teacher=nowhere)
    before = trials.all()[0]
    # Each trial waits behind those that nobody refused.
    ends_at(trials, request_of, 1, "is no folder", find_teacher=nowhere)
    ends_at(trials, request_of, 0, "is no folder", find_teacher=nowhere)
    trials.extend(3)
    run_all(trials, request_of)
    assert trials.counts() == {TrialStatus.COMPLETE: 3}
    after = trials.all()[0]
    assert (after.number, after.params) == (before.number, before.params)
    assert after.user_attrs[REFUSAL] is None
    assert REFUSAL not in trials.all()[2].user_attrs  # nobody refused this one
    assert study_view(trials).refused == ()


def test_a_worker_with_too_many_processes_leaves_the_batch_to_others(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    trials = trials_of(base)
    trials.extend(1)
    ends_at(trials, replace(request_of, nproc=3), 0, "16 is not divisible by 3 ranks")


def test_a_workspace_that_cannot_be_written_fails_no_trial(
    trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    trials = trials_of(
        with_overrides(base, ["training.kimg=0.016"]), PACE.with_changes({"retries": 1})
    )
    trials.extend(1)
    blocked = request_of.workspace.runs / "study-small"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where the runs' folder should be")
    for _ in range(3):  # more often than a lost trial would be retried
        ends_at(trials, request_of, 0, "study-small")
    blocked.unlink()
    run_all(trials, request_of)
    assert trials.counts() == {TrialStatus.COMPLETE: 1}


@pytest.mark.parametrize(
    "problem",
    [
        UnwrittenCheckpointError("Could not write checkpoint: disk full"),
        MachineError("no room"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_full_disk_fails_no_trial(
    problem: Exception,
    trials_of: MakeTrials,
    base: RunConfig,
    request_of: RunSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(spec: RunSpec, **_: object) -> Any:
        raise problem

    trials = trials_of(base, PACE.with_changes({"retries": 0}))
    trials.extend(1)
    monkeypatch.setattr("workbench.studies.trial.execute", full)
    for _ in range(2):
        ends_at(trials, request_of, 0, re.escape(str(problem)))


@pytest.mark.parametrize(
    "problem",
    [
        CheckpointError("Cannot restore checkpoint nimg-16: it is torn"),
        FileNotFoundError(errno.ENOENT, "No such file", "/weights/torn.pt"),
        OSError("a torn answer, of no file"),
    ],
)
def test_what_no_worker_can_read_fails_its_trial_in_the_end(
    problem: Exception,
    trials_of: MakeTrials,
    base: RunConfig,
    request_of: RunSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each worker that meets it ends and releases it; after the retries the next one goes on."""

    def unreadable(spec: RunSpec, **_: object) -> Any:
        raise problem

    trials = trials_of(base, PACE.with_changes({"retries": 1}))
    trials.extend(2)
    monkeypatch.setattr("workbench.studies.trial.execute", unreadable)
    monkeypatch.chdir(request_of.workspace.root)
    with pytest.raises(type(problem), match="torn"):
        run_all(trials, request_of)
    assert trials.counts() == {TrialStatus.WAITING: 2}
    with pytest.raises(type(problem), match="torn"):  # trial 1 is met for the first time
        run_all(trials, request_of)
    assert trials.counts() == {TrialStatus.FAILED: 1, TrialStatus.WAITING: 1}
    assert "torn" in trials.all()[0].user_attrs[ERROR]


@pytest.mark.parametrize("nproc", [1, 2])
def test_what_the_settings_make_impossible_fails_its_trial_alone(
    nproc: int, trials_of: MakeTrials, base: RunConfig, request_of: RunSpec
) -> None:
    """Only the loaded teacher shows that it has no such layer; no other machine's teacher has."""
    targets = "training.lora.targets"
    trials = trials_of(
        with_overrides(base, ["training.lora.rank=2", "training.kimg=0.016"]),
        space={targets: Choice(("blocks", ("no_such_layer",)))},
    )
    trials.extend(2)
    for target in ('["no_such_layer"]', "blocks"):
        trials.enqueue({targets: target})
    run_all(trials, replace(request_of, nproc=nproc))
    bad, good = trials.all()
    assert (status_of(bad), status_of(good)) == (TrialStatus.FAILED, TrialStatus.COMPLETE)
    assert "no_such_layer" in bad.user_attrs[ERROR]


def test_what_a_worker_could_not_run_comes_last(trials_of: MakeTrials) -> None:
    trials = trials_of()
    trials.extend(3)
    lease = trials.lease()
    assert lease is not None
    trials.release(lease, {"worker": "here:1", "reason": "No GPU."})
    order = [lease.number for _ in range(3) if (lease := trials_of().lease()) is not None]
    assert order == [1, 2, 0]
