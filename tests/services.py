"""Real services for tests and drills: PostgreSQL and HTTP servers as processes of our own.

Everything listens on 127.0.0.1, on a port that was free, and keeps its port when started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import psutil

from workbench.tracking import server_command, server_environment

ON_CI = os.environ.get("CI") == "true"
"""On CI a missing service fails its tests; elsewhere it skips them."""

LOOPBACK = "127.0.0.1"
_ACCOUNT = "postgres"
_DEBIAN = Path("/usr/lib/postgresql")
_START_SECONDS = 90.0


class Watched(Protocol):
    """What is asked of a process while somebody waits for its service."""

    def poll(self) -> int | None: ...


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])


def wait_until_healthy(base: str, process: Watched, log: Path | None = None) -> None:
    """Waits for 200 at ``base``/health.

    Raises:
        RuntimeError: the process ended or took longer than 90 s; with the end of its log.
    """
    url = f"{base}/health"

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False

    _wait(healthy, process, log, url)


class HttpService:
    """A server process with a /health page, in ``folder``; its output goes to service.log there."""

    def __init__(
        self, folder: Path, command: Sequence[str], port: int, environment: Mapping[str, str]
    ) -> None:
        self.port = port
        self.uri = f"http://{LOOPBACK}:{port}"
        self.log = folder / "service.log"
        self._folder = folder
        self._command = list(command)
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when /health answers.

        Raises:
            RuntimeError: it ended instead, or took longer than 90 s.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        try:
            wait_until_healthy(self.uri, self._process, self.log)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to the server and its workers; may be called at any time."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class MlflowServer(HttpService):
    """`mlflow server` over a database, with the command line that `workbench ui` uses."""

    def __init__(self, folder: Path, store_uri: str) -> None:
        port = free_port()
        command = server_command(folder / "served", port)
        super().__init__(folder, command, port, server_environment(store_uri))


class Postgres:
    """A PostgreSQL server over a data folder of its own, which lives until ``remove``.

    A context manager: started inside, removed at the end. Its superuser is `postgres`, and no
    password is asked, so a URL may carry any.

    Raises:
        FileNotFoundError: PostgreSQL's programs are not installed.
    """

    def __init__(self) -> None:
        self._programs = postgres_programs()
        if self._programs is None:
            raise FileNotFoundError("initdb: install Debian's postgresql package")
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        # Not pytest's tmp_path: that is closed to the account PostgreSQL has to run as.
        self._folder = Path(tempfile.mkdtemp(prefix="workbench-postgres-"))
        self.log = self._folder / "log"
        self._account: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:  # initdb refuses to run as root
            shutil.chown(self._folder, _ACCOUNT, _ACCOUNT)
            self._account |= {"user": _ACCOUNT, "group": _ACCOUNT, "extra_groups": []}
        self._run("initdb", "-A", "trust", "-N", "-U", "postgres").wait()
        if not (self._folder / "data/PG_VERSION").exists():
            raise RuntimeError(f"initdb failed: {self.log.read_text()[-2000:]}")

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def url(self, database: str = "postgres") -> str:
        """The address of a database, for MLflow, Optuna and psycopg alike."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """An empty database; its address."""
        import psycopg
        from psycopg import sql

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def start(self) -> None:
        """Returns when queries are answered.

        Raises:
            RuntimeError: it ended instead, or took longer than 90 s.
        """
        loopback_only = ("-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories=")
        self._process = self._run("postgres", "-p", str(self.port), *loopback_only)
        _wait(self._answers, self._process, self.log, self.url())

    def stop(self) -> None:
        """An orderly shutdown that cuts every session off (SIGINT)."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and all its sessions, as a power cut would end them."""
        if self._process is None:
            return
        server = psutil.Process(self._process.pid)
        family = [server, *server.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait()
        # A session that still holds the shared memory would keep the next server from starting.
        deadline = time.monotonic() + 10
        while any(_alive(member) for member in family) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._process = None

    def restart(self, *, crash: bool = True) -> None:
        """Ends it (with SIGKILL, or in order) and starts it again with all its rows."""
        if crash:
            self.kill()
        else:
            self.stop()
        self.start()

    def require_passwords(self) -> None:
        """Restarts it so that every role but its superuser has to give a password."""
        rules = f"host all postgres {LOOPBACK}/32 trust\nhost all all {LOOPBACK}/32 scram-sha-256\n"
        (self._folder / "data/pg_hba.conf").write_text(rules)
        self.restart(crash=False)

    def run_sql(self, text: str, environment: Mapping[str, str]) -> None:
        """Runs a script of psql, whose \\getenv reads the environment.

        Raises:
            subprocess.CalledProcessError: a statement failed.
        """
        assert self._programs is not None
        subprocess.run(
            [str(self._programs / "psql"), "-q", "-v", "ON_ERROR_STOP=1", self.url()],
            input=text,
            text=True,
            env={**os.environ, **environment},
            check=True,
        )

    def remove(self) -> None:
        """Ends it and deletes its data."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        assert self._programs is not None
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, **self._account)

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def postgres_programs() -> Path | None:
    """The folder of `initdb` and `postgres`: on the PATH, or the newest of Debian's."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    programs = _DEBIAN.glob("*/bin/initdb")
    newest = max(programs, key=lambda path: int(path.parts[-3]), default=None)
    return None if newest is None else newest.parent


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(ready: Callable[[], bool], process: Watched, log: Path | None, what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            tail = log.read_text()[-3000:] if log is not None else ""
            reason = "its process ended" if ended else f"no answer in {_START_SECONDS:.0f} s"
            raise RuntimeError(f"{what}: {reason}. {tail}")
        time.sleep(0.05)
