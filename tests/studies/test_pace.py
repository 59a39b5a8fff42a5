"""Workers are judged by the pace that they announced themselves."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from optuna.storages._rdb.models import TrialHeartbeatModel
from optuna.trial import Trial
from sqlalchemy import create_engine, text

from tests.services import Postgres
from tests.studies.conftest import PACE, SPACE, MakeQueue
from workbench.studies import StudySettings
from workbench.studies.heartbeat import silences
from workbench.studies.listener import PROGRESS
from workbench.studies.overview import view
from workbench.studies.queue import WORKER, Claim, TicketState, TrialQueue
from workbench.studies.space import suggest

SLOW = PACE.with_changes({"heartbeat_s": 30, "grace_s": 90})
USUAL = StudySettings()


def begin(queue: TrialQueue) -> Claim:
    claim = queue.claim()
    assert claim is not None
    suggest(SPACE, Trial(queue.study, claim.trial_id))
    return claim


def silence(queue: TrialQueue, claim: Claim, seconds: float) -> None:
    """As if the last sign of life had been given so long ago, with the study watched since."""
    session = queue.storage.rdb.scoped_session()
    session.get(TrialHeartbeatModel, claim.trial_id)
    found = session.query(TrialHeartbeatModel).filter_by(trial_id=claim.trial_id).one()
    found.heartbeat -= timedelta(seconds=seconds)
    session.commit()
    session.close()


def states_after(reader: TrialQueue, seconds: float) -> dict[TicketState, int]:
    reader._since = time.monotonic() - seconds
    reader.recover()
    return dict(reader.counts())


def test_a_slow_worker_lives_on_when_the_study_gets_a_faster_pace(queue_of: MakeQueue) -> None:
    slow = queue_of(settings=SLOW)
    slow.fill(1)
    claim = begin(slow)
    reader = queue_of(settings=PACE)  # the study's pace is now a grace of 2 s
    silence(reader, claim, 80.0)
    assert states_after(reader, 1000.0) == {TicketState.RUNNING: 1}
    silence(reader, claim, 15.0)
    assert states_after(reader, 1000.0) == {TicketState.WAITING: 1}
    again = begin(reader)  # whose pace it is now
    assert (again.ticket, again.number) == (0, 1)
    silence(reader, again, 5.0)
    assert states_after(queue_of(settings=SLOW), 1000.0) == {TicketState.WAITING: 1}


def test_after_trouble_a_slow_worker_has_its_own_time_to_speak(queue_of: MakeQueue) -> None:
    slow = queue_of(settings=SLOW)
    slow.fill(1)
    claim = begin(slow)
    reader = queue_of(settings=PACE)
    silence(reader, claim, 1000.0)
    assert states_after(reader, 80.0) == {TicketState.RUNNING: 1}
    assert states_after(reader, 95.0) == {TicketState.WAITING: 1}


def test_a_worker_of_an_earlier_version_has_the_usual_time(queue_of: MakeQueue) -> None:
    queue = queue_of()
    queue.fill(1)
    claim = begin(queue)
    queue.storage.rdb.set_trial_system_attr(claim.trial_id, "workbench:pace", {})
    silence(queue, claim, USUAL.grace_s - 10.0)
    assert states_after(queue, 1000.0) == {TicketState.RUNNING: 1}
    silence(queue, claim, 15.0)
    assert states_after(queue, 1000.0) == {TicketState.WAITING: 1}


def test_people_see_a_slow_worker_as_alive(queue_of: MakeQueue) -> None:
    slow = queue_of(settings=SLOW)
    slow.fill(1)
    claim = begin(slow)
    reader = queue_of(settings=PACE)
    for ago, workers in ((60.0, ("far:1",)), (100.0, ())):
        progress = {
            "nimg": 0, "total_nimg": 32, "images_per_s": 1.0, "run": 0, "runs": 1,
            "at": time.time() - ago,
        }  # fmt: skip
        for key, value in {WORKER: "far:1", PROGRESS: progress}.items():
            reader.storage.rdb.set_trial_user_attr(claim.trial_id, key, value)
        assert view(reader.spec, reader.tickets()).workers == workers


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_silence_is_the_databases_own_whatever_its_time_zone(
    zone: str, queue_of: MakeQueue, postgres: Postgres
) -> None:
    name = "zone_" + zone.rpartition("/")[2].lower()
    url = postgres.create_database(name)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} SET timezone TO '{zone}'"))
    engine.dispose()
    queue = queue_of(url=url)
    queue.fill(2)
    claim = begin(queue)
    silence(queue, claim, 50.0)
    begin(queue)
    first, second = silences(queue.storage.rdb, queue._study_id).values()
    assert 50.0 <= first < 60.0
    assert 0.0 <= second < 10.0
