"""The queue of tickets: exact, claimed once, and nothing lost when workers and database die."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import Trial, TrialState

from tests.services import Postgres, free_port
from tests.studies.conftest import PACE, SPACE, MakeQueue
from workbench.errors import RequestError, WorkbenchError
from workbench.studies import Integer
from workbench.studies.queue import ERROR, Claim, TicketState, TrialQueue
from workbench.studies.space import suggest
from workbench.studies.storage import StudyStorage, default_storage
from workbench.studies.study import create_or_continue, load_spec, study_names


def begin(queue: TrialQueue) -> Claim:
    """Claim a ticket and draw its point, as a worker does."""
    claim = queue.claim()
    assert claim is not None
    suggest(SPACE, Trial(queue.study, claim.trial_id))
    return claim


def claim_all(make: MakeQueue, url: str, tickets: int, workers: int) -> list[int]:
    """What so many workers claim at once until nothing is left, each on its own connections."""
    make(url=url).fill(tickets)
    queues = [make(url=url) for _ in range(workers)]
    claimed: list[int] = []

    def work(queue: TrialQueue) -> None:
        while (claim := queue.claim()) is not None:
            claimed.append(claim.number)

    threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return claimed


def test_a_budget_is_filled_up_and_never_exceeded(queue_of: MakeQueue) -> None:
    queue = queue_of()
    assert queue.fill(3) == 3
    assert queue_of().fill(3) == 0
    queue.finish(begin(queue), (1.0,))
    assert queue_of().fill(4) == 1
    assert queue.counts() == {TicketState.COMPLETE: 1, TicketState.WAITING: 3}


def test_a_persons_point_takes_the_next_open_ticket(queue_of: MakeQueue) -> None:
    queue = queue_of()
    queue.fill(2)
    assert queue.enqueue({"method.sid_alpha": 1.25}) == 0
    assert queue.enqueue({"generator.noise": "ddim"}) == 1
    assert queue.enqueue({"generator.noise": "fresh"}) == 2  # no open ticket is left
    first, second = begin(queue), begin(queue)
    params = {t.number: t.trial.params for t in queue.tickets()}
    assert params[first.number]["method.sid_alpha"] == 1.25
    assert params[second.number]["generator.noise"] == "ddim"


def test_every_ticket_is_claimed_once_on_sqlite(queue_of: MakeQueue, tmp_path: Path) -> None:
    claimed = claim_all(queue_of, default_storage(tmp_path), tickets=24, workers=6)
    assert sorted(claimed) == list(range(24))


def test_every_ticket_is_claimed_once_on_postgres(queue_of: MakeQueue, postgres: Postgres) -> None:
    """Six first users at once too: the tables are made by one of them."""
    url = postgres.create_database("claims")
    problems: list[BaseException] = []

    def first_use() -> None:
        try:
            queue_of(url=url)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=first_use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(claim_all(queue_of, url, tickets=24, workers=6)) == list(range(24))


def test_a_dead_workers_ticket_goes_on_where_it_was(queue_of: MakeQueue) -> None:
    dead, peer = queue_of(), queue_of()
    dead.fill(1)
    claim = begin(dead)
    dead.storage.rdb.set_trial_intermediate_value(claim.trial_id, 16, 3.5)
    before = dead.tickets()[0].trial.params
    peer.recover()
    assert peer.claim() is None  # it was heard of a moment ago
    time.sleep(PACE.grace_s + 1.2)  # SQLite's clock counts whole seconds
    peer.recover()
    peer.recover()
    again = peer.claim()
    assert again is not None
    assert (again.number, again.ticket) == (1, 0)
    (ticket,) = peer.tickets()
    assert (ticket.number, ticket.attempts, ticket.state) == (0, 2, TicketState.RUNNING)
    assert ticket.trial.params == before
    assert ticket.trial.intermediate_values == {16: 3.5}
    # The one that was thought dead speaks up: what it says is dropped, the ticket ends once.
    assert dead.finish(claim, (9.0,)) is False
    assert peer.finish(again, (1.0,)) is True
    assert [t.trial.values for t in dead.tickets()] == [[1.0]]


def test_a_point_for_a_ticket_that_was_lost_before_it_was_drawn_has_the_tickets_number(
    queue_of: MakeQueue,
) -> None:
    queue = queue_of()
    queue.fill(1)
    claim = queue.claim()
    assert claim is not None
    queue.storage.rdb.set_trial_state_values(claim.trial_id, TrialState.FAIL)
    queue.recover()
    assert queue.enqueue({"method.sid_alpha": 1.25}) == 0
    assert begin(queue).number == 1
    (ticket,) = queue.tickets()
    assert ticket.trial.params["method.sid_alpha"] == 1.25


def test_after_a_silence_of_the_database_everyone_may_speak_first(queue_of: MakeQueue) -> None:
    alive, peer = queue_of(), queue_of()
    alive.fill(1)
    begin(alive)
    time.sleep(PACE.grace_s + 1.2)
    peer.storage.last_trouble = time.monotonic()
    peer.recover()
    assert peer.counts() == {TicketState.RUNNING: 1}


def test_retries_are_limited_and_a_crash_between_two_steps_loses_none(
    queue_of: MakeQueue,
) -> None:
    once = PACE.with_changes({"retries": 1})
    queue = queue_of(settings=once)
    queue.fill(1)
    for attempt in (1, 2):
        claim = begin(queue)
        # As a worker leaves it that dies after failing a silent peer, before queuing it again.
        queue.storage.rdb.set_trial_state_values(claim.trial_id, TrialState.FAIL)
        assert queue.tickets()[0].attempts == attempt
        queue_of(settings=once).recover()
        queue_of(settings=once).recover()
    assert queue.counts() == {TicketState.LOST: 1}
    assert len(queue.study.trials) == 2


def test_giving_back_is_not_a_try_and_telling_twice_is_telling_once(queue_of: MakeQueue) -> None:
    queue = queue_of()
    queue.fill(2)
    claim = begin(queue)
    before = queue.tickets()[0].trial.params
    queue.give_back(claim)
    again = begin(queue)
    assert again.number == claim.number
    assert queue.tickets()[0].trial.params == before
    assert queue.finish(again, (2.0,))
    assert queue.finish(again, (2.0,))
    other = begin(queue)
    assert queue.finish(other, None, error="it was NaN")
    assert queue.finish(other, None, error="it was NaN")
    queue.recover()
    assert queue.counts() == {TicketState.COMPLETE: 1, TicketState.FAILED: 1}
    assert queue.tickets()[1].trial.user_attrs[ERROR] == "it was NaN"


def test_a_call_whose_answer_was_lost_is_repeated_without_harm(queue_of: MakeQueue) -> None:
    """Claimed twice by one token is claimed once; given back twice takes nothing from a peer."""
    ours, peer = queue_of(), queue_of()
    ours.fill(2)
    claim = ours.claim(token="ours")
    assert claim is not None
    assert ours.claim(token="ours") == claim
    assert ours.counts() == {TicketState.RUNNING: 1, TicketState.WAITING: 1}
    ours.give_back(claim)
    theirs = peer.claim()
    assert theirs is not None
    assert theirs.ticket == claim.ticket
    ours.give_back(claim)
    assert not ours.finish(claim, (1.0,))
    assert ours.counts() == {TicketState.RUNNING: 1, TicketState.WAITING: 1}
    assert peer.finish(theirs, (2.0,))
    peer.give_back(theirs)
    assert ours.counts() == {TicketState.COMPLETE: 1, TicketState.WAITING: 1}
    assert ours.study.best_value == 2.0


def test_the_database_may_crash_in_between(queue_of: MakeQueue, postgres: Postgres) -> None:
    queue = queue_of(url=postgres.create_database("crash"))
    queue.fill(2)
    claim = begin(queue)
    postgres.kill()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - SQLAlchemy's or Optuna's
        queue.counts()
    assert queue.storage.is_trouble(caught.value)
    back = threading.Timer(1.0, postgres.start)
    back.start()
    try:
        assert queue.storage.patiently(lambda: queue.finish(claim, (1.0,)))
    finally:
        back.join()
    assert queue.counts() == {TicketState.COMPLETE: 1, TicketState.WAITING: 1}


def test_another_search_under_the_same_name_is_refused(queue_of: MakeQueue) -> None:
    queue = queue_of()
    queue.fill(1)
    with pytest.raises(RequestError, match=r"objectives: \['fid'\] -> \['alignment'\]") as caught:
        queue_of(settings=PACE.with_changes({"objectives": ("alignment",)}))
    assert "--new-version" in str(caught.value)
    with pytest.raises(RequestError, match=r"space generator.steps: absent -> integer 1 .. 4"):
        queue_of(space={**SPACE, "generator.steps": Integer(1, 4)})
    more_patient = queue_of(settings=PACE.with_changes({"retries": 7}))
    assert load_spec(queue.storage, "small").settings.retries == 7
    other = more_patient.spec
    changed = replace(other, settings=PACE.with_changes({"seeds": (1,)}))
    assert create_or_continue(queue.storage, changed, new_version=True).name == "small.v2"
    assert load_spec(queue.storage, "small").settings.seeds == (1,)
    assert load_spec(queue.storage, "small.v1").settings.seeds == (0,)
    with pytest.raises(RequestError, match="seeds"):
        create_or_continue(queue.storage, other)
    assert study_names(queue.storage) == ["small", "small.v2"]


def test_a_study_of_another_program_is_left_alone(queue_of: MakeQueue, tmp_path: Path) -> None:
    import optuna

    foreign = optuna.create_study(study_name="small", storage=default_storage(tmp_path))
    foreign.ask()
    with pytest.raises(RequestError, match="made by another program"):
        queue_of()
    assert foreign.user_attrs == {}


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("redis://:hunter2@host", RequestError, "Cannot keep studies in 'redis://:\\*\\*\\*@host'"),
        ("sqlite://", RequestError, "sqlite:////FOLDER/optuna.db"),
        ("postgresql+pg8000://u:hunter2@h/d", RequestError, r"u:\*\*\*@h/d"),
        ("postgresql://u:hunter2@127.0.0.1:{port}/d", WorkbenchError, "does not answer: .*refused"),
    ],
)
def test_an_address_that_does_not_work_is_named_without_its_password(
    url: str, kind: type[WorkbenchError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        _ = StudyStorage(url.format(port=free_port())).rdb
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_makes_no_storage(tmp_path: Path) -> None:
    storage = StudyStorage(default_storage(tmp_path))
    with pytest.raises(RequestError, match=r"Unknown study in sqlite:.* 'small'"):
        load_spec(storage, "small")
    assert list(tmp_path.iterdir()) == []
