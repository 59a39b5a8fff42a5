"""Signs of life: written by a thread that no failure of the database ends, and found missing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from workbench.studies.storage import StudyStorage

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

LOG = logging.getLogger(__name__)


class Pulse:
    """Calls ``beat`` every so many seconds while the context lasts, at its start and its end.

    Optuna's own heartbeat thread dies with the first error, and its trial is then taken for lost.

    Args:
        beat: writes to the storage.
    """

    def __init__(self, storage: StudyStorage, interval: float, beat: Callable[[], None]) -> None:
        self._storage, self._interval, self._beat = storage, interval, beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="study-pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """The first beat is on its way."""
        self._thread.start()

    def stop(self) -> None:
        """The last beat; returns when it is over."""
        self._stop.set()
        if self._thread.is_alive():
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


def silences(rdb: RDBStorage, study_id: int) -> dict[int, float]:
    """Seconds since the last sign of life of each running trial, by trial id.

    By the database's clock alone. Optuna's own question (``fail_stale_trials``) applies the pace of
    whoever asks to everyone's trials. A trial that never gave a sign is not of our workers.
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
    return {id_: (now.replace(tzinfo=None) - at).total_seconds() for id_, at, now in rows}
