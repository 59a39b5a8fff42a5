"""Reading runs back: filtered and paged by the store, never a whole history at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name
from workbench.tracking.base import SYSTEM
from workbench.tracking.rows import RunRow, parse_conditions
from workbench.tracking.store import (
    SERVER_SCHEMES,
    asking,
    check_uri,
    ensure_store,
    open_store,
    sqlite_path,
)

if TYPE_CHECKING:
    import pandas

    from workbench.tracking.database import DatabaseReader
    from workbench.tracking.rest import ServerReader


def list_runs(
    tracking_uri: str, experiment: str | None = None, *, limit: int = 50, where: str = ""
) -> list[RunRow]:
    """The newest ``limit`` runs for which ``where`` holds: ``tags.kind = 'run' AND ...``.

    A store that does not exist yet has no runs, and asking does not create it. A server is asked
    by REST, a database is read directly.

    Raises:
        RequestError: unknown experiment, another filter than AND and = of tags and params, or an
            address that MLflow does not take.
        WorkbenchError: the store does not answer.
    """
    conditions = parse_conditions(where)
    check_uri(tracking_uri)
    if _absent(tracking_uri):
        if experiment is not None:
            raise unknown_name("experiment", experiment, [])
        return []
    with asking(tracking_uri), _reader(tracking_uri) as reader:
        names = reader.experiments()
        if experiment is not None and experiment not in names.values():
            raise unknown_name("experiment", experiment, names.values())
        wanted = {key: name for key, name in names.items() if experiment in (None, name)}
        return reader.runs(wanted, limit, conditions) if wanted else []


def metric_history(
    tracking_uri: str, run_id: str, keys: Sequence[str] | None = None
) -> pandas.DataFrame:
    """Every point of a run's metrics: columns key, step, value, timestamp (ms), sorted so.

    Without ``keys`` all metrics but the system's.

    Raises:
        RequestError: unknown run or metric, or an address that MLflow does not take.
        WorkbenchError: the store does not answer.
    """
    import pandas

    if _absent(tracking_uri):
        raise unknown_name("run", run_id, [])
    with asking(tracking_uri):
        store = open_store(tracking_uri)
        known = set(_get_run(store, tracking_uri, run_id).data.metrics)
        for key in keys or ():
            if key not in known:
                raise unknown_name("metric", key, known)
        chosen = keys if keys is not None else [k for k in known if not k.startswith(SYSTEM)]
        points = [
            (point.key, point.step, point.value, point.timestamp)
            for key in chosen
            for point in store.get_metric_history(run_id, key)
        ]
    frame = pandas.DataFrame(points, columns=["key", "step", "value", "timestamp"])
    return frame.sort_values(["key", "step", "timestamp"], ignore_index=True)


def check_store(tracking_uri: str, artifact_root: Path | None = None) -> None:
    """Asks a store for anything; a database is created or brought up to date first.

    Raises:
        RequestError: an address that MLflow does not take.
        WorkbenchError: it does not answer; says what is in the way.
    """
    check_uri(tracking_uri)
    with asking(tracking_uri):
        ensure_store(tracking_uri, artifact_root)
        with _reader(tracking_uri, patience=1) as reader:
            reader.experiments()


def _reader(
    tracking_uri: str, patience: int = 6
) -> AbstractContextManager[ServerReader | DatabaseReader]:
    """Either is imported only here: each brings a library that takes its time."""
    if tracking_uri.startswith(SERVER_SCHEMES):
        from workbench.tracking.rest import server_reader

        return server_reader(tracking_uri, patience)
    from workbench.tracking.database import database_reader

    return database_reader(tracking_uri)


def _absent(tracking_uri: str) -> bool:
    path = sqlite_path(tracking_uri)
    return path is not None and not path.exists()


def _get_run(store: Any, tracking_uri: str, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return store.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    raise unknown_name("run", run_id, [row.run_id for row in list_runs(tracking_uri, limit=10)])
