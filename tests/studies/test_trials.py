"""Trials: leased once, told once, and nothing lost when workers and database die."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import create_engine, event, text

from tests.services import Postgres, free_port
from tests.studies.conftest import PACE, SPACE, MakeTrials
from workbench.errors import RequestError, WorkbenchError
from workbench.studies import Integer, StudySettings
from workbench.studies.listener import PROGRESS, TrialAddress, TrialListener
from workbench.studies.overview import study_view
from workbench.studies.space import suggest
from workbench.studies.storage import StudyStorage, UnreachableError, default_storage
from workbench.studies.study import create_or_continue, load_spec, open_study, study_names
from workbench.studies.tables import HOLDER, claim, give_up, last_heartbeats
from workbench.studies.trials import (
    ATTEMPTS,
    ERROR,
    WORKER,
    Lease,
    StudyTrials,
    TrialStatus,
    attempts_at,
    number_of,
    status_of,
)

SLOW = PACE.with_changes({"heartbeat_s": 30, "grace_s": 90})
KEPT = Path(__file__).parent / "stored" / "kept.sql"


def begin(trials: StudyTrials) -> Lease:
    """Lease a trial and draw its point, as a worker does."""
    lease = trials.lease()
    assert lease is not None
    suggest(SPACE, Trial(trials.study, lease.trial_id))
    return lease


def silence(trials: StudyTrials, lease: Lease, seconds: float) -> None:
    """As if the last sign of life had been given so long ago."""
    session = trials.storage.rdb.scoped_session()
    found = session.query(TrialHeartbeatModel).filter_by(trial_id=lease.trial_id).one()
    found.heartbeat -= timedelta(seconds=seconds)
    session.commit()
    session.close()


def recover(trials: StudyTrials, watched: float = 1000.0) -> dict[TrialStatus, int]:
    """What a look at dead workers finds for somebody who has watched for so many seconds."""
    trials._since = time.monotonic() - watched
    trials.recover()
    return dict(trials.counts())


def at_once(actions: list[Callable[[], object]]) -> None:
    """Each in a thread of its own."""
    problems: list[BaseException] = []

    def act(action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=act, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_budget_is_filled_up_and_never_exceeded(trials_of: MakeTrials) -> None:
    trials = trials_of()
    assert trials.extend(3) == 3
    assert trials_of().extend(3) == 0
    assert trials_of().extend(2) == 0
    trials.finish(begin(trials), (1.0,))
    assert trials_of().extend(4) == 1
    assert trials.counts() == {TrialStatus.COMPLETE: 1, TrialStatus.WAITING: 3}
    view = study_view(trials)
    assert (view.total, view.ended, view.counts["waiting"]) == (4, 1, 3)


def test_a_persons_point_is_the_next_trial_and_counts(trials_of: MakeTrials) -> None:
    trials = trials_of()
    trials.extend(2)
    assert trials.enqueue({"method.sid_alpha": 1.25}) == 0
    assert trials.enqueue({"generator.noise": "ddim"}) == 1
    assert trials.counts() == {TrialStatus.WAITING: 2}
    assert trials.enqueue({"generator.noise": "fresh"}) == 2  # beyond the budget
    drawn = [begin(trials_of()) for _ in range(3)]
    assert [lease.number for lease in drawn] == [0, 1, 2]
    params = [trial.params for trial in trials.all()]
    assert params[0]["method.sid_alpha"] == 1.25
    assert [p["generator.noise"] for p in params[1:]] == ["ddim", "fresh"]
    assert trials_of().lease() is None


@pytest.mark.parametrize("where", ["file", "database"])
def test_every_trial_is_leased_once(
    where: str, trials_of: MakeTrials, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By six first users at once too: the tables are made by one of them."""
    url = default_storage(tmp_path)
    if where == "database":
        url = request.getfixturevalue("postgres").create_database("leases")
    opened: list[StudyTrials] = []
    at_once([lambda: opened.append(trials_of(url=url))] * 6)
    opened[0].extend(18)
    taken: list[int] = []

    def work(trials: StudyTrials) -> None:
        while (lease := trials.lease()) is not None:
            taken.append(lease.number)
            trials.finish(lease, (1.0,))

    at_once([lambda trials=trials: work(trials) for trials in opened])
    assert sorted(taken) == list(range(18))


def test_a_dead_workers_trial_goes_on_where_it_was(trials_of: MakeTrials) -> None:
    dead, peer = trials_of(settings=SLOW), trials_of(settings=SLOW)
    dead.extend(1)
    lease = begin(dead)
    dead.storage.rdb.set_trial_intermediate_value(lease.trial_id, 16, 3.5)
    before = dead.all()[0].params
    assert recover(peer) == {TrialStatus.RUNNING: 1}  # it was heard of a moment ago
    assert peer.lease() is None
    silence(peer, lease, 100.0)
    assert recover(peer, watched=1.0) == {TrialStatus.RUNNING: 1}  # not watched for long enough
    assert recover(peer) == recover(peer) == {TrialStatus.WAITING: 1}
    assert peer.lease() == lease
    (trial,) = peer.all()
    assert (number_of(trial), attempts_at(trial)) == (0, 2)
    assert (status_of(trial), trial.params) == (TrialStatus.RUNNING, before)
    assert trial.intermediate_values == {16: 3.5}
    # The one that was thought dead speaks up: what it says is dropped, the trial ends once.
    assert dead.finish(lease, (9.0,)) is False
    dead.release(lease)
    assert peer.finish(lease, (1.0,)) is True
    assert [t.values for t in dead.all()] == [[1.0]]


@pytest.mark.parametrize("where", ["file", "database"])
def test_without_any_lock_a_trial_has_one_holder(
    where: str,
    trials_of: MakeTrials,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL forgets its locks when it crashes: a claim is atomic without one."""
    url = default_storage(tmp_path)
    if where == "database":
        url = request.getfixturevalue("postgres").create_database("no_locks")
    peers = [trials_of(url=url) for _ in range(2)]
    monkeypatch.setattr(StudyStorage, "lock", lambda self, name: nullcontext())
    for _ in range(20):
        peers[0].enqueue({})
    won: list[tuple[StudyTrials, Lease]] = []
    together = threading.Barrier(2, timeout=60)

    def work(trials: StudyTrials) -> None:
        for _ in range(10):
            together.wait()
            lease = trials.storage.patiently(trials.lease)
            assert lease is not None
            won.append((trials, lease))
            together.wait()
            assert trials.finish(lease, (1.0,))

    at_once([lambda trials=trials: work(trials) for trials in peers])
    assert sorted(lease.number for _, lease in won) == list(range(20))
    assert peers[0].counts() == {TrialStatus.COMPLETE: 20}


def test_who_gives_a_lease_up_must_hold_it(trials_of: MakeTrials) -> None:
    trials = trials_of()
    trials.extend(1)
    lease = begin(trials)
    rdb, ours = trials.storage.rdb, trials.all()[0].system_attrs[HOLDER]
    at, _ = last_heartbeats(rdb, trials._study_id)[lease.trial_id]
    waiting, id_ = TrialState.WAITING, lease.trial_id
    assert not claim(rdb, id_, {HOLDER: "peer"})
    assert not give_up(rdb, id_, waiting, "peer", {})
    assert not give_up(rdb, id_, waiting, ours, {}, heard=at - timedelta(seconds=5))
    assert trials.counts() == {TrialStatus.RUNNING: 1}
    assert give_up(rdb, id_, waiting, ours, {ATTEMPTS: 2}, heard=at)
    assert not give_up(rdb, id_, waiting, ours, {ATTEMPTS: 3}, heard=at)
    assert attempts_at(trials.all()[0]) == 2
    assert claim(rdb, id_, {HOLDER: "peer"})
    assert not give_up(rdb, id_, waiting, ours, {})
    assert trials.counts() == {TrialStatus.RUNNING: 1}


def test_a_study_is_removed_when_nobody_works_on_it(trials_of: MakeTrials) -> None:
    trials = trials_of(settings=SLOW)
    trials.extend(1)
    trials.storage.rdb.set_trial_user_attr(begin(trials).trial_id, WORKER, "far:1")
    with pytest.raises(RequestError, match="Trial 0 of small is being run by far:1"):
        trials_of().remove()
    silence(trials, Lease(trials.all()[0]._trial_id, 0), 100.0)
    trials_of().remove()
    assert study_names(trials.storage) == []


def test_after_a_silence_of_the_database_everyone_may_speak_first(trials_of: MakeTrials) -> None:
    alive, peer = trials_of(settings=SLOW), trials_of(settings=SLOW)
    alive.extend(1)
    silence(alive, begin(alive), 100.0)
    peer.storage.last_trouble = time.monotonic()
    assert recover(peer) == {TrialStatus.RUNNING: 1}


def test_retries_are_limited(trials_of: MakeTrials) -> None:
    once = PACE.with_changes({"retries": 1})
    trials = trials_of(settings=once)
    trials.extend(1)
    for attempt in (1, 2):
        lease = begin(trials)
        assert attempts_at(trials.all()[0]) == attempt
        silence(trials, lease, 10.0)
        recover(trials_of(settings=once))
    assert trials.counts() == {TrialStatus.LOST: 1}


def test_releasing_is_not_a_try_and_telling_twice_is_telling_once(trials_of: MakeTrials) -> None:
    trials = trials_of()
    trials.extend(2)
    lease = begin(trials)
    before = trials.all()[0].params
    trials.release(lease)
    assert begin(trials) == lease
    assert trials.all()[0].params == before
    assert trials.finish(lease, (2.0,))
    assert trials.finish(lease, (2.0,))
    other = begin(trials)
    assert trials.finish(other, None, error="it was NaN")
    assert trials.finish(other, None, error="it was NaN")
    assert recover(trials) == {TrialStatus.COMPLETE: 1, TrialStatus.FAILED: 1}
    assert trials.all()[1].user_attrs[ERROR] == "it was NaN"
    assert ATTEMPTS not in trials.all()[0].user_attrs


def test_a_call_whose_answer_was_lost_is_repeated_without_harm(trials_of: MakeTrials) -> None:
    """Leased twice by one process is leased once; released twice takes nothing from a peer."""
    ours, peer = trials_of(), trials_of()
    ours.extend(2)
    lease = ours.lease()
    assert lease is not None
    assert ours.lease() == lease
    assert ours.counts() == {TrialStatus.RUNNING: 1, TrialStatus.WAITING: 1}
    ours.release(lease)
    assert peer.lease() == lease
    ours.release(lease)
    assert not ours.finish(lease, (1.0,))
    assert ours.counts() == {TrialStatus.RUNNING: 1, TrialStatus.WAITING: 1}
    assert peer.finish(lease, (2.0,))
    peer.release(lease)
    assert ours.counts() == {TrialStatus.COMPLETE: 1, TrialStatus.WAITING: 1}
    assert ours.study.best_value == 2.0


def test_the_database_may_crash_in_between(trials_of: MakeTrials, postgres: Postgres) -> None:
    trials = trials_of(url=postgres.create_database("crash"))
    trials.extend(2)
    lease = begin(trials)
    with trials.storage.lock("held while the server dies"):
        postgres.kill()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - SQLAlchemy's or Optuna's
        trials.counts()
    assert trials.storage.is_trouble(caught.value)
    back = threading.Timer(0.5, postgres.start)
    back.start()
    try:
        assert trials.storage.patiently(lambda: trials.finish(lease, (1.0,)))
    finally:
        back.join()
    assert trials.counts() == {TrialStatus.COMPLETE: 1, TrialStatus.WAITING: 1}


def test_a_trial_that_is_lost_while_its_end_is_told_waits_for_a_peer(
    trials_of: MakeTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = trials_of(), trials_of()
    ours.extend(1)
    lease = begin(ours)
    is_ours, rdb = ours._is_ours, ours.storage.rdb

    def then_lost(trial: FrozenTrial) -> bool:
        answer = is_ours(trial)
        give_up(rdb, lease.trial_id, TrialState.WAITING, trial.system_attrs[HOLDER], {})
        return answer

    monkeypatch.setattr(ours, "_is_ours", then_lost)
    assert not ours.finish(lease, (1.0,))
    assert peer.lease() == lease
    assert peer.finish(lease, (1.0,))


def test_a_connection_that_is_cut_between_two_statements_is_the_databases_trouble(
    trials_of: MakeTrials, postgres: Postgres
) -> None:
    """Optuna then asks once more in the broken transaction, and raises another error."""
    url = postgres.create_database("cut")
    trials = trials_of(url=url)
    trials.extend(1)
    lease = begin(trials)
    engine, peer, cut = trials.storage.rdb.engine, create_engine(url), []

    def after(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if not cut and "FROM studies" in statement:
            cut.append(cursor.connection.info.backend_pid)
            with peer.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": cut[0]})

    event.listen(engine, "after_cursor_execute", after)
    try:
        assert [number_of(t) for t in trials.storage.patiently(trials.all)] == [lease.number]
    finally:
        event.remove(engine, "after_cursor_execute", after)
        peer.dispose()
    assert cut


@pytest.mark.parametrize("where", ["file", "database"])
def test_a_lock_that_is_never_free_says_so(
    where: str,
    trials_of: MakeTrials,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = None
    if where == "database":
        url = request.getfixturevalue("postgres").create_database("never_free")
    holder, peer = trials_of(url=url), trials_of(url=url)
    monkeypatch.setattr("workbench.studies.storage._LOCK_SECONDS", 0.1)
    with (
        holder.storage.lock("one"),
        peer.storage.lock("two"),
        pytest.raises(UnreachableError, match=r"lock 'one' of|lock timeout"),
        peer.storage.lock("one"),
    ):
        pass
    with peer.storage.lock("one"), peer.storage.lock("two"):  # all were given up
        pass


def test_a_run_goes_on_while_its_studys_tables_are_locked(
    trials_of: MakeTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener opens the storage anew; whoever makes the tables there may take long."""
    trials = trials_of()
    trials.extend(1)
    lease = begin(trials)
    listener = TrialListener(
        TrialAddress(trials.storage.url, trials.spec, lease.number, lease.trial_id, 0)
    )
    (objective,) = trials.spec.objectives
    monkeypatch.setattr("workbench.studies.storage._LOCK_SECONDS", 0.1)
    with trials.storage.lock("create"):
        listener.on_metrics(160, {objective.metric: 0.5})
        assert listener.unsent
        assert not listener.wants_end()
    listener.on_metrics(320, {objective.metric: 0.4})
    assert not listener.unsent
    listener.on_end()


def test_workers_are_judged_by_the_pace_that_they_announced(trials_of: MakeTrials) -> None:
    slow = trials_of(settings=SLOW)
    slow.extend(1)
    lease = begin(slow)
    reader = trials_of(settings=PACE)  # the study's pace is now a grace of 2 s
    for ago, workers in ((60.0, ("far:1",)), (100.0, ())):
        at = time.time() - ago
        progress = {"nimg": 0, "total_nimg": 32, "images_per_s": 1.0, "run": 0, "runs": 1, "at": at}
        for key, value in {WORKER: "far:1", PROGRESS: progress}.items():
            reader.storage.rdb.set_trial_user_attr(lease.trial_id, key, value)
        assert study_view(reader).workers == workers
    silence(reader, lease, 80.0)
    assert recover(reader) == {TrialStatus.RUNNING: 1}
    silence(reader, lease, 15.0)
    assert recover(reader, watched=80.0) == {TrialStatus.RUNNING: 1}  # after trouble
    assert recover(reader) == {TrialStatus.WAITING: 1}
    assert begin(reader) == lease  # whose pace it is now
    silence(reader, lease, 5.0)
    assert recover(trials_of(settings=SLOW)) == {TrialStatus.WAITING: 1}


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_silence_is_the_databases_own_whatever_its_time_zone(
    zone: str, trials_of: MakeTrials, postgres: Postgres
) -> None:
    name = "zone_" + zone.rpartition("/")[2].lower()
    url = postgres.create_database(name)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET timezone TO '{zone}'"))
    engine.dispose()
    trials = trials_of(url=url)
    trials.extend(1)
    lease = begin(trials)
    silence(trials, lease, 50.0)
    ((at, seconds),) = last_heartbeats(trials.storage.rdb, trials._study_id).values()
    assert 50.0 <= seconds < 60.0
    holder = trials.all()[0].system_attrs[HOLDER]
    assert give_up(trials.storage.rdb, lease.trial_id, TrialState.WAITING, holder, {}, heard=at)


def test_a_study_of_the_version_before_opens_shows_and_goes_on(tmp_path: Path) -> None:
    """It began trials as waiting records, and took a dead worker's up under a new one."""
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.executescript(KEPT.read_text())
    database.close()
    trials = StudyTrials(*open_study(default_storage(tmp_path), "kept"))
    waiting, running = TrialStatus.WAITING, TrialStatus.RUNNING
    ended = [TrialStatus.COMPLETE, TrialStatus.FAILED, TrialStatus.PRUNED, TrialStatus.COMPLETE]
    found = trials.all()
    assert [status_of(t) for t in found] == [*ended, waiting, running, waiting, waiting]
    assert [number_of(t) for t in found] == list(range(8))
    assert [attempts_at(t) for t in found] == [1, 1, 1, 2, 2, 1, 1, 1]
    view = study_view(trials)
    assert (view.total, view.ended, view.history) == (8, 4, (2.5, 1.5))
    (best,) = view.best
    assert (best.number, best.attempts, best.values) == (3, 2, {"fid": 1.5})
    assert running not in recover(trials)
    spec = trials.spec
    assert create_or_continue(trials.storage, spec).name == "kept"
    assert trials.extend(9) == 1
    taken = []
    while (lease := trials.lease()) is not None:
        suggest(SPACE, Trial(trials.study, lease.trial_id))
        taken.append(lease.number)
        assert trials.finish(lease, (3.0,))
    assert taken == [4, 5, 6, 7, 10]  # what was begun comes first; the last has a new record
    assert [t.params for t in trials.all()][:4] == [t.params for t in found[:4]]
    assert study_view(trials).counts["complete"] == 7


def test_another_search_under_the_same_name_is_refused(trials_of: MakeTrials) -> None:
    trials = trials_of()
    with pytest.raises(RequestError, match=r"objectives: \['fid'\] -> \['alignment'\]") as caught:
        trials_of(settings=PACE.with_changes({"objectives": ("alignment",)}))
    assert "--new-version" in str(caught.value)
    with pytest.raises(RequestError, match=r"space generator.steps: absent -> integer 1 .. 4"):
        trials_of(space={**SPACE, "generator.steps": Integer(1, 4)})
    more_patient = trials_of(settings=PACE.with_changes({"retries": 7}))
    assert load_spec(trials.storage, "small").settings.retries == 7
    other = more_patient.spec
    changed = replace(other, settings=PACE.with_changes({"seeds": (1,)}))
    assert create_or_continue(trials.storage, changed, new_version=True).name == "small.v2"
    assert load_spec(trials.storage, "small").settings.seeds == (1,)
    assert load_spec(trials.storage, "small.v1").settings.seeds == (0,)
    with pytest.raises(RequestError, match="seeds"):
        create_or_continue(trials.storage, other)
    assert study_names(trials.storage) == ["small", "small.v2"]


def test_a_study_of_another_program_is_left_alone(trials_of: MakeTrials, tmp_path: Path) -> None:
    import optuna

    foreign = optuna.create_study(study_name="small", storage=default_storage(tmp_path))
    foreign.ask()
    with pytest.raises(RequestError, match="made by another program"):
        trials_of()
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


def test_the_usual_time_counts_where_a_worker_announced_none(trials_of: MakeTrials) -> None:
    trials, usual = trials_of(), StudySettings().grace_s
    trials.extend(1)
    lease = begin(trials)
    trials.storage.rdb.set_trial_system_attr(lease.trial_id, "workbench:pace", {})
    silence(trials, lease, usual - 10.0)
    assert recover(trials) == {TrialStatus.RUNNING: 1}
    silence(trials, lease, 15.0)
    assert recover(trials) == {TrialStatus.WAITING: 1}
