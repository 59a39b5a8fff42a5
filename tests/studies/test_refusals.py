"""What a machine cannot do waits for another one; what the settings make impossible fails alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.studies.conftest import PACE, MakeQueue
from workbench.errors import MachineError, RequestError
from workbench.runs import RunRequest
from workbench.studies import Choice
from workbench.studies.overview import view
from workbench.studies.queue import ERROR, REFUSAL, TicketState, TrialQueue
from workbench.studies.worker import SETBACKS, work
from workbench.training.checkpoint import CheckpointError, UnwrittenCheckpointError
from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides


def run_all(queue: TrialQueue, request: RunRequest) -> list[str]:
    """Work on the study in this process; what the worker said."""
    said: list[str] = []
    work(queue.storage.url, queue.spec.name, request, said.append)
    return said


def ends_at(queue: TrialQueue, request: RunRequest, ticket: int, message: str) -> None:
    """Asserts that a worker ends with one line, at a ticket that then waits as it was."""
    with pytest.raises(RequestError, match=message) as caught:
        run_all(queue, request)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"Trial {ticket} waits for a worker that can run it.")
    found = queue.tickets()[ticket]
    assert (found.state, found.attempts) == (TicketState.WAITING, 1)
    assert SETBACKS not in found.trial.user_attrs
    (shown,) = [t for t in view(queue.spec, queue.tickets()).refused if t.number == ticket]
    assert shown.error is not None
    assert str(caught.value).partition(" Trial ")[0].rstrip(".") in shown.error


def test_a_machine_without_the_teacher_leaves_the_study_to_others(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    def nowhere(name: str, folder: Path) -> Path:
        raise RequestError(f"The teacher {name!r} is no folder.")

    queue = queue_of(
        with_overrides(base, ["training.kimg=0.016"]), PACE.with_changes({"retries": 0})
    )
    queue.fill(2)
    bare = replace(request_of, find_teacher=nowhere)
    ends_at(queue, bare, 0, "is no folder")
    before = queue.tickets()[0].trial
    ends_at(queue, bare, 1, "is no folder")  # each ticket waits behind those that nobody refused
    ends_at(queue, bare, 0, "is no folder")
    queue.fill(3)
    run_all(queue, request_of)
    assert queue.counts() == {TicketState.COMPLETE: 3}
    after = queue.tickets()[0].trial
    assert (after.number, after.params) == (before.number, before.params)
    assert after.user_attrs[REFUSAL] is None
    assert REFUSAL not in queue.tickets()[2].trial.user_attrs  # nobody refused this one
    assert view(queue.spec, queue.tickets()).refused == ()


def test_a_worker_with_too_many_processes_leaves_the_batch_to_others(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    queue = queue_of(base)
    queue.fill(1)
    ends_at(queue, replace(request_of, nproc=3), 0, "16 is not divisible by 3 ranks")


def test_a_workspace_that_cannot_be_written_fails_no_trial(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    queue = queue_of(
        with_overrides(base, ["training.kimg=0.016"]), PACE.with_changes({"retries": 1})
    )
    queue.fill(1)
    blocked = request_of.workspace.runs / "study-small"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file where the runs' folder should be")
    for _ in range(3):  # more often than a lost trial would be retried
        ends_at(queue, request_of, 0, "study-small")
    blocked.unlink()
    run_all(queue, request_of)
    assert queue.counts() == {TicketState.COMPLETE: 1}


@pytest.mark.parametrize(
    "problem",
    [UnwrittenCheckpointError("Could not write checkpoint: disk full"), MachineError("no room")],
)
def test_a_full_disk_fails_no_trial(
    problem: Exception,
    queue_of: MakeQueue,
    base: RunConfig,
    request_of: RunRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(request: RunRequest) -> Any:
        raise problem

    queue = queue_of(base, PACE.with_changes({"retries": 0}))
    queue.fill(1)
    monkeypatch.setattr("workbench.studies.trial.execute", full)
    for _ in range(2):
        ends_at(queue, request_of, 0, str(problem))


def test_a_checkpoint_that_no_worker_can_read_fails_its_trial_in_the_end(
    queue_of: MakeQueue, base: RunConfig, request_of: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker that meets it ends and gives it back; after the retries the next one goes on."""

    def unreadable(request: RunRequest) -> Any:
        raise CheckpointError("Cannot restore checkpoint nimg-16: it is torn")

    queue = queue_of(base, PACE.with_changes({"retries": 1}))
    queue.fill(2)
    monkeypatch.setattr("workbench.studies.trial.execute", unreadable)
    with pytest.raises(CheckpointError, match="torn"):
        run_all(queue, request_of)
    assert queue.counts() == {TicketState.WAITING: 2}
    with pytest.raises(CheckpointError, match="torn"):  # trial 1 is met for the first time
        run_all(queue, request_of)
    assert queue.counts() == {TicketState.FAILED: 1, TicketState.WAITING: 1}
    assert "torn" in queue.tickets()[0].trial.user_attrs[ERROR]


@pytest.mark.parametrize("nproc", [1, 2])
def test_what_the_settings_make_impossible_fails_its_trial_alone(
    nproc: int, queue_of: MakeQueue, base: RunConfig, request_of: RunRequest
) -> None:
    """Only the loaded teacher shows that it has no such layer; no other machine's teacher has."""
    targets = "training.lora.targets"
    queue = queue_of(
        with_overrides(base, ["training.lora.rank=2", "training.kimg=0.016"]),
        space={targets: Choice(("blocks", ("no_such_layer",)))},
    )
    queue.fill(2)
    for target in ('["no_such_layer"]', "blocks"):
        queue.enqueue({targets: target})
    run_all(queue, replace(request_of, nproc=nproc))
    bad, good = queue.tickets()
    assert (bad.state, good.state) == (TicketState.FAILED, TicketState.COMPLETE)
    assert "no_such_layer" in bad.trial.user_attrs[ERROR]


def test_what_a_worker_could_not_run_comes_last(queue_of: MakeQueue) -> None:
    queue = queue_of()
    queue.fill(3)
    claim = queue.claim()
    assert claim is not None
    queue.give_back(claim, {"worker": "here:1", "reason": "No GPU."})
    order = [c.ticket for c in (queue.claim(), queue.claim(), queue.claim()) if c is not None]
    assert order == [1, 2, 0]
