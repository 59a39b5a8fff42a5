"""Where studies live: an SQLite file or a PostgreSQL database, opened, locked, waited for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
from workbench.studies.locks import (
    LOCK_SECONDS,
    NeverFreeError,
    UnreachableError,
    advisory_lock,
    check_held,
    file_lock,
)
from workbench.studies.samplers import calm_optuna
from workbench.tracking import redact
from workbench.tracking.store import (
    SQLITE,
    check_driver,
    sqlite_path,
    summary,
)
from workbench.training.events import StopFlag

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection

ENVIRONMENT_VARIABLE = "WORKBENCH_STUDY_STORAGE"

ResultT = TypeVar("ResultT")

StillHeld: TypeAlias = Callable[[], None]
"""Raises what :meth:`StudyStorage.is_trouble` knows if a lock was lost meanwhile."""

_POSTGRES = re.compile(r"postgresql(\+psycopg2?)?://")
_PATIENCE_SECONDS = 600.0
_SQLITE_OPTIONS = {"timeout": 60}  # seconds that a writer waits for another one
_POSTGRES_OPTIONS = {
    # A machine that vanished without a word is noticed within a minute, not after hours.
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


def default_storage(workspace: Path) -> str:
    """Optuna's own SQLite file, apart from MLflow's: the two destroy each other in one."""
    return f"{SQLITE}{workspace.resolve() / 'optuna.db'}"


class StudyStorage:
    """An address of studies. Opened at first use; every machine may hold its own.

    Raises:
        RequestError: an address that cannot hold studies, or a missing driver.
    """

    def __init__(self, url: str) -> None:
        if not (url.startswith(SQLITE) and sqlite_path(url)) and not _POSTGRES.match(url):
            raise RequestError(
                f"Cannot keep studies in {redact(url)!r}: expected sqlite:////FOLDER/optuna.db or "
                "postgresql://USER@HOST/DATABASE."
            )
        if not url.startswith(SQLITE):
            check_driver(url)
        self.url = url
        self.shown = redact(url)
        self.last_trouble: float | None = None
        """When (time.monotonic) the database last failed to answer this process."""
        self._file = sqlite_path(url)
        self._options = _SQLITE_OPTIONS if self._file else _POSTGRES_OPTIONS
        self._rdb: RDBStorage | None = None
        self._opening = threading.Lock()

    @property
    def exists(self) -> bool:
        """False for an SQLite file that was never made; asking does not make it."""
        return self._file is None or self._file.exists()

    @property
    def rdb(self) -> RDBStorage:
        """Optuna's storage; the tables are created by whoever comes first, the rest wait.

        Raises:
            WorkbenchError: unreachable (named without its password), or made by another Optuna.
        """
        with self._opening:
            if self._rdb is None:
                with self.lock("create"), self._explained():
                    self._rdb = self._open()
            return self._rdb

    @contextmanager
    def lock(self, name: str) -> Iterator[StillHeld]:
        """Held by one process at a time over all machines that use this storage.

        It frees itself when its holder dies. PostgreSQL frees it also when it crashes or loses the
        connection, which the holder does not feel. So while it is held, what this thread reads and
        writes in the storage goes over the lock's own connection: after the lock nothing is
        written any more. What is done elsewhere under the lock has to ask just before.

        Yields:
            raises if the lock is no longer held.

        Raises:
            NeverFreeError: another process held it for too long.
            WorkbenchError: unreachable.
        """
        with ExitStack() as held:
            try:
                still_held = self._acquire(name, held)
            except NeverFreeError:
                raise NeverFreeError(
                    f"Another process has held the lock {name!r} of {self.shown} for "
                    f"{LOCK_SECONDS:g} s."
                ) from None
            yield still_held

    def patiently(self, action: Callable[[], ResultT], stop: StopFlag | None = None) -> ResultT:
        """The action's result, tried again while the database does not answer.

        The action has to be repeatable: a broken connection does not tell whether it had worked.

        Raises:
            InterruptedRunError: asked to stop while waiting.
            UnreachableError: no answer for ten minutes.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        pause = 0.1
        while True:
            try:
                return action()
            except Exception as error:
                if not self.is_trouble(error):
                    raise
                problem = self._problem(error)
            if time.monotonic() > deadline:
                raise UnreachableError(f"{problem} (for {_PATIENCE_SECONDS / 60:g} minutes).")
            if stop is not None and stop.requested:
                raise InterruptedRunError(f"Stopped while waiting: {problem}")
            time.sleep(pause)
            pause = min(2 * pause, 3.0)

    def is_trouble(self, error: BaseException) -> bool:
        """Whether an error means that the database does not answer, and notes when it was."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        found = isinstance(
            cause, OperationalError | InterfaceError | PoolTimeoutError | UnreachableError
        ) or (isinstance(cause, DBAPIError) and cause.connection_invalidated)
        if found:
            self.last_trouble = time.monotonic()
        return found

    def leave_thread(self) -> None:
        """To be called by a thread that ends: SQLAlchemy keeps a session for each."""
        if self._rdb is not None:
            self._rdb.remove_session()

    def close(self) -> None:
        """Give up this process's connections; the next use opens new ones."""
        self.leave_thread()
        if self._rdb is not None:
            self._rdb.engine.dispose()
            self._rdb = None

    def _open(self) -> RDBStorage:
        from optuna.storages import RDBStorage

        with calm_optuna():
            return RDBStorage(
                self.url,
                # Connections that a restart of the database cut are noticed and replaced.
                # One stays open a process: PostgreSQL has a hundred for everyone by default.
                engine_kwargs={
                    "pool_pre_ping": True,
                    "pool_size": 1,
                    "max_overflow": 9,
                    "connect_args": self._options,
                },
            )

    def _acquire(self, name: str, held: ExitStack) -> StillHeld:
        """Take a lock that ``held`` gives up; returns what asks for it."""
        if self._file:
            held.enter_context(file_lock(self._file, name))
            return lambda: None
        with self._explained():
            connection = advisory_lock(self.url, self._options, name)
        held.enter_context(connection)
        held.enter_context(self._speaking_over(connection))
        return partial(check_held, connection)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except Exception as error:
            if self.is_trouble(error):
                raise UnreachableError(self._problem(error)) from None
            if isinstance(error, SQLAlchemyError | RuntimeError):
                raise WorkbenchError(
                    f"The study storage {self.shown}: {summary(error, self.url)}"
                ) from None
            raise

    def _problem(self, error: BaseException) -> str:
        if isinstance(error, UnreachableError):
            return str(error)
        cause = error.__cause__ or error
        origin = getattr(cause, "orig", None) or cause
        return f"The study storage {self.shown} does not answer: {summary(origin, self.url)}"

    @contextmanager
    def _speaking_over(self, connection: Connection) -> Iterator[None]:
        """Optuna's session of this thread on one connection, instead of any from the pool."""
        if self._rdb is None:  # which is about to be made
            yield
            return
        sessions = self._rdb.scoped_session
        sessions.remove()
        sessions(bind=connection)
        try:
            yield
        finally:
            sessions.remove()
