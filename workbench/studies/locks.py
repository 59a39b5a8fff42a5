"""Locks over processes and machines: a file beside an SQLite database, or PostgreSQL's own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from filelock import FileLock, Timeout

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_SECONDS = 180.0
"""How long a lock is waited for."""

# By default a server believes for hours in the connection of a machine that vanished.
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": 15,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
}


class UnreachableError(WorkbenchError):
    """The database does not answer; it may again."""


class LostLockError(UnreachableError):
    """The connection that held a lock is gone, and with it the lock: a peer may hold it now."""


class NeverFreeError(WorkbenchError):
    """Another process has held a lock for too long."""


@contextmanager
def file_lock(file: Path, name: str) -> Iterator[None]:
    """A lock beside the database's file; the system frees it when its holder dies.

    Raises:
        NeverFreeError: it was not free in time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(
        file.with_name(f".{file.name}.{name.replace('/', '.')}.lock"), timeout=LOCK_SECONDS
    )
    try:
        lock.acquire()
    except Timeout:
        raise NeverFreeError(name) from None
    try:
        yield
    finally:
        lock.release()


def advisory_lock(url: str, options: Mapping[str, Any], name: str) -> Connection:
    """A connection to PostgreSQL that holds a lock for as long as it lives, and never comes back.

    SQLAlchemy would replace a broken connection by a new one, which holds nothing; this one raises
    :class:`LostLockError` instead. Closing it frees the lock.

    Raises:
        NeverFreeError: it was not free in time.
        sqlalchemy.exc.OperationalError: the database does not answer.
    """
    from sqlalchemy import create_engine, event
    from sqlalchemy.pool import NullPool

    engine = create_engine(url, poolclass=NullPool, connect_args=dict(options))
    connection = engine.connect()

    def refuse(*arguments: Any) -> NoReturn:
        raise LostLockError(f"The lock {name!r} was lost with its connection.")

    event.listen(engine, "do_connect", refuse)
    try:
        _acquire(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def check_held(connection: Connection) -> None:
    """Ask the connection of a lock for a sign of life.

    Raises:
        LostLockError, sqlalchemy.exc.OperationalError: it is gone, and so is the lock.
    """
    from sqlalchemy import text

    with connection.begin():
        connection.execute(text("SELECT 1"))


def _acquire(connection: Connection, name: str) -> None:
    from sqlalchemy import text

    key = int.from_bytes(hashlib.sha256(f"workbench/{name}".encode()).digest()[:8], "big")
    ask, values = text("SELECT pg_try_advisory_lock(:key)"), {"key": key - 2**63}
    with connection.begin():
        for setting, value in _SERVER_KEEPALIVE.items():
            connection.execute(text(f"SET {setting} = {value}"))
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        # A transaction an attempt: the lock outlives it, and none is left open while we wait.
        with connection.begin():
            if connection.execute(ask, values).scalar():
                return
        if time.monotonic() > deadline:
            raise NeverFreeError(name)
        time.sleep(0.05)
