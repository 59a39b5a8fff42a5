"""Where studies live: an SQLite file or a PostgreSQL database, opened, locked, waited for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
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

ENVIRONMENT_VARIABLE = "WORKBENCH_STUDY_STORAGE"

ResultT = TypeVar("ResultT")

_POSTGRES = re.compile(r"postgresql(\+psycopg2?)?://")
_PATIENCE_SECONDS = 600.0
_LOCK_SECONDS = 180.0
_SQLITE_OPTIONS = {"timeout": 60}  # seconds that a writer waits for another one
_POSTGRES_OPTIONS = {
    # A machine that vanished without a word is noticed within a minute, not after hours.
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# By default a server believes for hours in the connection of a machine that vanished.
_OF_A_LOCK = (
    "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; "
    "SET lock_timeout = '{seconds:g}s'"
)


class UnreachableError(WorkbenchError):
    """The database does not answer, or a peer keeps it locked; it may answer again."""


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
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time over all machines that use this storage.

        It frees itself when its holder dies. PostgreSQL gives it up also when it crashes, which the
        holder does not feel: a lock saves double work, and no trial's result depends on it.

        Raises:
            UnreachableError: another process held it for too long, or the database is away.
        """
        if self._file is None:
            with self._postgres_lock(name):
                yield
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._file.with_name(f".{self._file.name}.{name.replace('/', '.')}.lock"))
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise UnreachableError(
                f"Another process has held the lock {name!r} of {self.shown} for "
                f"{_LOCK_SECONDS:g} s."
            ) from None
        try:
            yield
        finally:
            lock.release()

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
        from sqlalchemy.exc import (
            DBAPIError,
            InterfaceError,
            OperationalError,
            PendingRollbackError,
        )
        from sqlalchemy.exc import TimeoutError as PoolTimeoutError

        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        found = isinstance(
            cause,
            OperationalError
            | InterfaceError
            | PendingRollbackError  # Optuna asked for trials once more after a cut connection
            | PoolTimeoutError
            | UnreachableError,
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

    @contextmanager
    def _postgres_lock(self, name: str) -> Iterator[None]:
        """An advisory lock, which lives as long as the one connection that is opened for it."""
        from sqlalchemy import create_engine, text
        from sqlalchemy.pool import NullPool

        key = {"name": f"workbench/{name}"}
        engine = create_engine(self.url, poolclass=NullPool, connect_args=self._options)
        with self._explained():
            connection = engine.connect()
        try:
            # No transaction is left open: the lock outlives it.
            with self._explained(), connection.begin():
                connection.execute(text(_OF_A_LOCK.format(seconds=_LOCK_SECONDS)))
                connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), key)
            yield
        finally:
            connection.close()

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
