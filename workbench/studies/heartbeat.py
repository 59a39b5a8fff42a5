"""Signs of life, written by a thread that no failure of the database ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from workbench.studies.storage import StudyStorage

LOG = logging.getLogger(__name__)


@contextmanager
def heartbeat(storage: StudyStorage, interval: float, beat: Callable[[], None]) -> Iterator[None]:
    """Calls ``beat`` every so many seconds while the context lasts, at its start and its end.

    Optuna's own heartbeat thread dies with the first error, and its trial is then taken for lost.

    Args:
        beat: writes to the storage.
    """
    stop = threading.Event()

    def run() -> None:
        stopping = complained = False
        while not stopping:
            stopping = stop.is_set()
            try:
                beat()
            except Exception as error:
                if not storage.is_trouble(error) and not complained:
                    complained = True
                    LOG.warning("A sign of life could not be written: %s", error)
            if not stopping:
                stop.wait(interval)
        storage.leave_thread()

    thread = threading.Thread(target=run, name="study-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
