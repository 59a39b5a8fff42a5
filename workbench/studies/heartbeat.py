"""Signs of life: written by a thread that no failure of the database ends, and found missing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.studies.storage import StudyStorage

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LOG = logging.getLogger(__name__)


class Heartbeat:
    """Calls ``beat`` every so many seconds while the context lasts, at its start and its end.

    Optuna's own heartbeat thread dies with the first error, and its trial is then taken for lost.

    Args:
        beat: writes to the storage.
    """

    def __init__(self, storage: StudyStorage, interval: float, beat: Callable[[], None]) -> None:
        self._storage, self._interval, self._beat = storage, interval, beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="study-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        stopping = complained = False
        while not stopping:
            stopping = self._stop.is_set()
            try:
                self._beat()
            except Exception as error:
                if not self._storage.is_trouble(error) and not complained:
                    complained = True
                    LOG.warning("A sign of life could not be written: %s", error)
            if not stopping:
                self._stop.wait(self._interval)
        self._storage.leave_thread()


def last_heartbeats(rdb: RDBStorage, study_id: int) -> dict[int, tuple[datetime, float]]:
    """When each running trial's worker last gave a sign of life, and the seconds since; by id.

    By the database's clock alone. Optuna's own question (``fail_stale_trials``) applies the pace of
    whoever asks to everyone's trials.
    """
    from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
    from optuna.trial import TrialState
    from sqlalchemy import func, select

    last = TrialHeartbeatModel.heartbeat
    question = (
        select(TrialModel.trial_id, last, func.now())
        .join(TrialHeartbeatModel, TrialHeartbeatModel.trial_id == TrialModel.trial_id)
        .where(TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING)
    )
    session = rdb.scoped_session()
    try:
        rows = session.execute(question).all()
    finally:
        session.close()
    # PostgreSQL's own now() carries a time zone, in which the column's values are written.
    return {id_: (at, (now.replace(tzinfo=None) - at).total_seconds()) for id_, at, now in rows}


def remove_heartbeat(rdb: RDBStorage, trial_id: int, at: datetime) -> bool:
    """Take a sign of life away if none came after it; True for one of all who ask at once."""
    from optuna.storages._rdb.models import TrialHeartbeatModel
    from sqlalchemy import delete

    own, last = TrialHeartbeatModel.trial_id == trial_id, TrialHeartbeatModel.heartbeat
    session = rdb.scoped_session()
    try:
        removal = delete(TrialHeartbeatModel).where(own, last <= at)
        removed = session.execute(removal.returning(TrialHeartbeatModel.trial_id)).all()
        session.commit()
    finally:
        session.close()
    return bool(removed)
