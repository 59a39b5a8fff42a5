"""Where MLflow keeps runs: creating that place once, opening it, naming it without a password."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock, Timeout

from workbench.errors import RequestError, WorkbenchError

LOG = logging.getLogger(__name__)

SQLITE = "sqlite:///"
SERVER_SCHEMES = ("http", "https")
DATABASE_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_LOCK_SECONDS = 180
_IMPORT = threading.Lock()
_PASSWORD = re.compile(r"(?<=://)(?P<user>[^:/@]*):(?P<secret>.*)@", re.DOTALL)
_TOKEN = re.compile(r"(?:(?<=http://)|(?<=https://))(?P<secret>[^:/?#@]+):?@")
"""A server's user without a password is a token; a database's is a name."""

_SECRET_FIELD = re.compile(r"(?i)([?&;][^=&;\s]*(?:pass|pwd|token|secret|key)[^=&;\s]*=)[^&;\s]*")


def default_uri(workspace: Path) -> str:
    """The workspace's own store: one SQLite file."""
    return f"{SQLITE}{workspace.resolve() / 'mlflow.db'}"


def default_artifact_root(workspace: Path) -> Path:
    """Where runs of the workspace's own store keep their files."""
    return workspace.resolve() / "mlartifacts"


def check_uri(uri: str) -> None:
    """Refuses addresses that MLflow 3 does not take, or that lack their driver here.

    Raises:
        RequestError: no scheme, a plain folder, an unknown scheme, or a missing driver.
    """
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if scheme not in (*SERVER_SCHEMES, *DATABASE_SCHEMES):
        raise RequestError(
            f"Cannot track to {redact(uri)!r}: expected http(s)://HOST, "
            "sqlite:////FOLDER/mlflow.db or postgresql://USER@HOST/DATABASE "
            "(MLflow 3 refuses plain folders)."
        )
    if scheme not in SERVER_SCHEMES and not uri.startswith(SQLITE):
        check_driver(uri)


def check_driver(uri: str) -> None:
    """Refuses a database's address that SQLAlchemy cannot open here; connects to nothing.

    Both MLflow and Optuna open databases through SQLAlchemy, so SQLAlchemy is asked.

    Raises:
        RequestError: not an address, an unknown driver, or a driver that is not installed.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        dialect = make_url(uri).get_dialect()
        dialect.import_dbapi()
    except ImportError as error:
        hint = ": pip install 'workbench-sid[postgres]'" if dialect.driver == "psycopg" else "."
        raise RequestError(
            f"{redact(uri)} needs the Python package {error.name or dialect.driver}, "
            f"which cannot be imported here{hint}"
        ) from None
    except (ArgumentError, ValueError) as error:
        text = summary(error, uri)
        raise RequestError(
            f"Cannot read the database address {redact(uri)!r} ({text}): expected "
            "postgresql://USER@HOST:PORT/DATABASE."
        ) from None


def redact(uri: str) -> str:
    """The address as people may see it: passwords and tokens replaced by ***."""
    shown = _PASSWORD.sub(r"\g<user>:***@", _TOKEN.sub("***@", uri))
    return _SECRET_FIELD.sub(r"\1***", shown)


def without_user(uri: str) -> str:
    """The address without user and password, for a browser that asks for them itself."""
    return _PASSWORD.sub("", _TOKEN.sub("", uri))


def scrub(text: str, uri: str) -> str:
    """A message about ``uri`` without its secrets, however a library quoted them."""
    text = text.replace(uri, redact(uri))
    found = _TOKEN.search(uri) or _PASSWORD.search(uri)
    for secret in {found["secret"], unquote(found["secret"])} - {""} if found else ():
        text = text.replace(secret, "***")
    return _SECRET_FIELD.sub(r"\1***", text)


def summary(error: BaseException, uri: str) -> str:
    """The first line of an error, shortened and without secrets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return scrub(lines[0], uri)[:300]


@contextmanager
def asking(uri: str) -> Iterator[None]:
    """Turns whatever the store's libraries raise into one clear line.

    Raises:
        RequestError: the store takes the question for wrong.
        WorkbenchError: it does not answer.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        invalid = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
        raise (RequestError if invalid else WorkbenchError)(
            f"MLflow at {redact(uri)}: {summary(error, uri)}"
        ) from error


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite address; none for other stores and for a store in memory."""
    if not uri.startswith(SQLITE):
        return None
    name = uri[len(SQLITE) :].partition("?")[0]
    return Path(name).resolve() if name and name != ":memory:" else None


def prepare_environment() -> None:
    """Settings that MLflow reads from the environment alone; whatever a person set stays.

    They are made when a store is first opened, not by an import, and stay: another thread may be
    reading the environment, which must not change under it again and again.

    By default a client whose server is gone blocks 246 s per call, and setting a run's state
    prints its address on stdout, which belongs to ``--json``. PostgreSQL's client waits for an
    unreachable machine for over two minutes.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def import_mlflow() -> None:
    """Import MLflow, in one thread at a time.

    A run's sampler of system metrics and its uploader begin at once: each would find the package
    half imported by the other, and end.
    """
    prepare_environment()
    with _IMPORT:
        import mlflow  # noqa: F401


def open_store(uri: str, artifact_root: Path | None = None) -> Any:
    """An ``MlflowClient`` for the address; a database that is fresh or old is brought up first.

    Raises:
        RequestError: an address that MLflow does not take.
        WorkbenchError: a database made by a newer MLflow, or one that never becomes free.
    """
    check_uri(uri)
    import_mlflow()
    ensure_store(uri, artifact_root)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def ensure_store(uri: str, artifact_root: Path | None = None) -> None:
    """Creates the tables or moves them to this MLflow's version, in one process at a time.

    Several processes that open a fresh SQLite store at once destroy it. Servers care for their own
    store; an SQLite file of an older version is copied aside before it is changed.

    Raises:
        RequestError: an address that MLflow does not take.
        WorkbenchError: a database made by a newer MLflow, or one that never becomes free.
    """
    check_uri(uri)
    if uri.startswith(SERVER_SCHEMES):
        return
    import_mlflow()
    for chatty in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with _creation_lock(uri):
        _bring_up(uri, artifact_root)


def get_or_create_experiment(client: Any, name: str, artifact_root: Path | None = None) -> str:
    """The id of the experiment with this name, created if need be by whoever comes first.

    ``artifact_root`` applies to database stores; a server decides by itself. An experiment that
    was deleted comes back, because its name is taken for ever.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = hashlib.sha256(name.encode()).hexdigest()[:4]
        place = None
        if artifact_root is not None and not client.tracking_uri.startswith(SERVER_SCHEMES):
            safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
            place = (artifact_root.resolve() / f"{safe}-{folder}").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextmanager
def _creation_lock(uri: str) -> Iterator[None]:
    database = sqlite_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        path = database.with_name(database.name + ".lock")
    else:
        mark = hashlib.sha256(uri.encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"workbench-mlflow-{mark}.lock"
    try:
        with FileLock(path, timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise WorkbenchError(
            f"Another process has been creating {redact(uri)} for {_LOCK_SECONDS} s ({path})."
        ) from None


def _bring_up(uri: str, artifact_root: Path | None) -> None:
    path = sqlite_path(uri)
    root = artifact_root or (path or Path.cwd() / "mlflow.db").parent / "mlartifacts"
    if path is None or path.exists():
        _create_or_migrate(uri, root)
        return
    # Made aside and renamed: a process killed in the middle leaves no half-made store.
    LOG.info("Creating the MLflow store %s.", path)
    aside = path.with_name(path.name + ".new")
    aside.unlink(missing_ok=True)
    _create_or_migrate(f"{SQLITE}{aside}", root)
    aside.replace(path)


def _create_or_migrate(uri: str, artifact_root: Path) -> None:
    import mlflow.store.db.utils as database
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # MLflow's own variant with retries blocks for 101 s when the database is away.
    engine = database.create_sqlalchemy_engine(uri)
    try:
        version = database._get_schema_version(engine)
        if version is None:
            database._initialize_tables(engine)
        elif version != database._get_latest_schema_revision():
            _migrate(uri, engine, str(version))
    finally:
        engine.dispose()
    # Writes the default experiment, whose place would else be relative to the current folder.
    store = SqlAlchemyStore(uri, artifact_root.resolve().as_uri())
    store.engine.dispose()


def _migrate(uri: str, engine: Any, version: str) -> None:
    import mlflow
    import mlflow.store.db.utils as database

    known = database.ScriptDirectory.from_config(database._get_alembic_config(db_url=""))
    if version not in {revision.revision for revision in known.walk_revisions()}:
        raise WorkbenchError(
            f"The MLflow store {redact(uri)} was made by a newer MLflow than {mlflow.__version__}: "
            "update mlflow, or name another --tracking-uri."
        )
    path = sqlite_path(uri)
    if path is not None:
        copy = path.with_name(f"{path.name}.{version}.bak")
        shutil.copy2(path, copy)
        LOG.warning("Moving the MLflow store %s to a new version; a copy is %s.", path, copy)
    database._upgrade_db(engine)
