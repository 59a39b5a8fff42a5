"""A lock that died with the database protects nobody: whoever held it must not act on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import create_engine, text

from tests.services import Postgres
from tests.studies.conftest import SPACE, MakeQueue
from workbench.errors import RequestError
from workbench.runs import RunRequest
from workbench.studies.listener import TrialAddress, TrialListener
from workbench.studies.locks import NeverFreeError
from workbench.studies.parent import StudyRun
from workbench.studies.queue import TicketState, TrialQueue
from workbench.studies.space import suggest
from workbench.studies.trial import TrialRunner
from workbench.studies.worker import work

WHO = text("SELECT pg_backend_pid(), current_setting('tcp_keepalives_idle')")


def cut_off(queue: TrialQueue) -> None:
    """Ends this thread's connection to PostgreSQL, as a crash of the server does with all."""
    sessions = queue.storage.rdb.scoped_session
    pid, _ = sessions().execute(WHO).one()
    sessions().close()
    engine = create_engine(queue.storage.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    engine.dispose()


def test_after_a_crash_the_holder_can_write_nothing(
    queue_of: MakeQueue, postgres: Postgres
) -> None:
    url = postgres.create_database("lost_lock")
    holder, peer = queue_of(url=url), queue_of(url=url)
    with holder.storage.lock("one") as still_held:
        still_held()
        holder.study.enqueue_trial({})
        postgres.restart(crash=True)
        with peer.storage.lock("one"):
            peer.study.enqueue_trial({})
        for _ in range(3):  # SQLAlchemy would speak over a new connection from the second on
            with pytest.raises(Exception) as caught:  # noqa: PT011 - SQLAlchemy's or ours
                holder.study.enqueue_trial({})
            assert holder.storage.is_trouble(caught.value)
            with pytest.raises(Exception) as caught:  # noqa: PT011
                still_held()
            assert holder.storage.is_trouble(caught.value)
    assert holder.fill(3) == 1  # the next lock is a new one
    assert peer.counts() == {TicketState.WAITING: 3}


def test_a_crash_while_tickets_are_queued_again_queues_none_twice(
    queue_of: MakeQueue, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create_database("twice_queued")
    queue, peer = queue_of(url=url), queue_of(url=url)
    queue.fill(3)
    for _ in range(2):
        claim = queue.claim()
        assert claim is not None
        suggest(SPACE, Trial(queue.study, claim.trial_id))
        queue.storage.rdb.set_trial_state_values(claim.trial_id, TrialState.FAIL)
    look = queue._left_behind

    def crash_meanwhile() -> list[FrozenTrial]:
        found = look()
        if len(peer.study.trials) == 3:
            cut_off(queue)
            peer.recover()
        return found

    monkeypatch.setattr(queue, "_left_behind", crash_meanwhile)
    queue.storage.patiently(queue.recover)
    assert len(peer.study.trials) == 5
    assert peer.counts() == {TicketState.WAITING: 3}


def test_a_study_whose_lock_is_lost_makes_no_second_run_of_itself(
    queue_of: MakeQueue, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow would make it: only asking the lock prevents that."""
    queue = queue_of(url=postgres.create_database("lost_parent"))
    parent = StudyRun(queue, f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "artifacts")
    made: list[str] = []

    def create() -> str:
        made.append("run")
        return "run"

    parent._client = object()
    for name in ("_adopt", "_begin", "_find"):
        monkeypatch.setattr(parent, name, lambda: None)
    monkeypatch.setattr(parent, "_create", create)
    with monkeypatch.context() as patched:
        patched.setattr(parent, "_find", lambda: cut_off(queue))
        parent.begin()
    assert (parent.run_id, made) == (None, [])
    parent.begin()
    assert (parent.run_id, made) == ("run", ["run"])


def test_a_lock_speaks_for_itself_alone(queue_of: MakeQueue, postgres: Postgres) -> None:
    """Over its own connection, which the server gives up soon when its holder's machine is gone."""
    queue = queue_of(url=postgres.create_database("own_connection"))
    sessions = queue.storage.rdb.scoped_session
    with queue.storage.lock("one"):
        inside, idle = sessions().execute(WHO).one()
        sessions().close()
        assert idle == "15"
    outside, _ = sessions().execute(WHO).one()
    sessions.remove()
    assert inside != outside


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.studies.locks.LOCK_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["file", "database"])
def test_a_lock_that_is_never_free_says_so_and_whose_it_is(
    where: str, queue_of: MakeQueue, request: pytest.FixtureRequest
) -> None:
    url = None
    if where == "database":
        url = request.getfixturevalue("postgres").create_database("never_free")
    holder, peer = queue_of(url=url), queue_of(url=url)
    with holder.storage.lock("one"):
        message = "Another process has held the lock 'one' of"
        with pytest.raises(NeverFreeError, match=message), peer.storage.lock("one"):
            pass
        # Of two locks the one that was not free is named.
        with (
            pytest.raises(NeverFreeError, match=message),
            peer.storage.lock("two"),
            peer.storage.lock("one"),
        ):
            pass
    with peer.storage.lock("one"), peer.storage.lock("two"):  # all were given up
        pass


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_is_never_free_is_no_trials_fault(
    queue_of: MakeQueue, request_of: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, peer = queue_of(request_of.config), queue_of(request_of.config)
    queue.fill(1)

    def meet_a_lock(self: TrialRunner, *_: object) -> dict[str, float]:
        with peer.storage.lock("one"), self.storage.lock("one"):
            raise AssertionError("two hold one lock")

    monkeypatch.setattr(TrialRunner, "run", meet_a_lock)
    with pytest.raises(NeverFreeError):
        work(queue.storage.url, queue.spec.name, request_of)
    (ticket,) = queue.tickets()
    assert (ticket.state, ticket.attempts) == (TicketState.WAITING, 1)


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_can_neither_run_nor_give_back_leaves_with_what_was_wrong_first(
    queue_of: MakeQueue, request_of: RunRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, peer = queue_of(request_of.config), queue_of(request_of.config)
    queue.fill(1)
    held = peer.storage.lock(queue._lock)

    def refuse(self: TrialRunner, *_: object) -> dict[str, float]:
        held.__enter__()
        raise RequestError("No GPU.")

    monkeypatch.setattr(TrialRunner, "run", refuse)
    said: list[str] = []
    try:
        with pytest.raises(RequestError, match=r"No GPU\. Trial 0 waits"):
            work(queue.storage.url, queue.spec.name, request_of, said.append)
    finally:
        held.__exit__(None, None, None)
    assert "Another process has held the lock" in said[-1]


@pytest.mark.usefixtures("impatient")
def test_a_run_goes_on_while_its_studys_tables_are_locked(queue_of: MakeQueue) -> None:
    """A listener opens the storage anew; whoever makes the tables there may take long."""
    queue = queue_of()
    queue.fill(1)
    claim = queue.claim()
    assert claim is not None
    listener = TrialListener(
        TrialAddress(queue.storage.url, queue.spec, claim.number, claim.trial_id, 0)
    )
    (objective,) = queue.spec.objectives
    with queue.storage.lock("create"):
        listener.on_metrics(160, {objective.metric: 0.5})
        assert listener.unsent
        assert not listener.wants_end()
    listener.on_metrics(320, {objective.metric: 0.4})
    assert not listener.unsent
    listener.on_end()
