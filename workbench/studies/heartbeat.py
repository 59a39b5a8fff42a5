"""Signs of life, written by a thread that no failure of the database ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from workbench.studies.storage import StudyStorage

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
