"""Runs straight from MLflow's tables: what a table of runs needs costs four queries.

MLflow itself takes seconds to import and builds an object for every parameter, tag and metric. Only
whole tables of a schema that was looked at are read so, and nothing is ever written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name
from workbench.tracking.rows import INTERNAL, NEWEST_FIRST, SYSTEM, Question, RunRow, ended
from workbench.tracking.store import prepare_environment

if TYPE_CHECKING:
    from sqlalchemy import Connection

KNOWN_SCHEMAS = frozenset({"dc11669786a5"})
"""Revisions of MLflow's tables (``alembic_version``) whose columns read here were checked."""

_SCHEMES = ("sqlite:", "postgresql:", "postgresql+psycopg:")
_MANY = 500
"""Values bound to one query: every database takes so many."""


def answer(tracking_uri: str, question: Question) -> list[RunRow] | None:
    """The runs; None where MLflow has to be asked: another database, schema, filter or order.

    Raises:
        RequestError: unknown experiment.
    """
    conditions = question.conditions()
    plain = conditions is not None and question.order_by == NEWEST_FIRST
    if conditions is None or not plain or not tracking_uri.startswith(_SCHEMES):
        return None
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    prepare_environment()
    with create_engine(tracking_uri, poolclass=NullPool).connect() as connection:
        if not _is_known(connection):
            return None
        names = _experiments(connection)
        if question.experiment is not None and question.experiment not in names.values():
            raise unknown_name("experiment", question.experiment, names.values())
        runs = _runs(connection, names, question, conditions)
        keys = [run.run_uuid for run in runs]
        params = _texts(connection, "params", keys)
        tags = _texts(connection, "tags", keys)
        metrics = _metrics(connection, keys)
    return [
        RunRow(
            run_id=str(run.run_uuid),
            name=str(run.name),
            experiment=names[run.experiment_id],
            experiment_id=str(run.experiment_id),
            status=str(run.status),
            start_time=int(run.start_time),
            end_time=ended(run.status, run.end_time),
            params=params[run.run_uuid],
            tags=tags[run.run_uuid],
            metrics=metrics[run.run_uuid],
        )
        for run in runs
    ]


def _is_known(connection: Connection) -> bool:
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table("alembic_version"):
        return False
    versions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    return len(versions) == 1 and versions[0] in KNOWN_SCHEMAS


def _experiments(connection: Connection) -> dict[int, str]:
    from sqlalchemy import text

    asked = "SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active'"
    return {row.experiment_id: str(row.name) for row in connection.execute(text(asked))}


def _runs(
    connection: Connection,
    names: Mapping[int, str],
    question: Question,
    conditions: Sequence[tuple[str, str, str]],
) -> Sequence[Any]:
    from sqlalchemy import bindparam, text

    wanted = [key for key, name in names.items() if question.experiment in (None, name)]
    filters: list[str] = []
    values: dict[str, str] = {}
    for place, (table, key, value) in enumerate(conditions):
        filters.append(
            f"AND run_uuid IN (SELECT run_uuid FROM {table} "
            f"WHERE key = :key{place} AND value = :value{place})"
        )
        values |= {f"key{place}": key, f"value{place}": value}
    asked = text(
        "SELECT run_uuid, name, experiment_id, status, start_time, end_time FROM runs "
        f"WHERE lifecycle_stage = 'active' AND experiment_id IN :wanted {' '.join(filters)} "
        "ORDER BY CASE WHEN start_time IS NULL THEN 1 ELSE 0 END, start_time DESC, run_uuid "
        "LIMIT :limit"
    ).bindparams(bindparam("wanted", expanding=True))
    found = connection.execute(asked, {**values, "wanted": wanted, "limit": question.limit})
    return found.all()


def _texts(connection: Connection, table: str, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """Params or tags by run, without MLflow's own."""
    found: dict[str, dict[str, str]] = {key: {} for key in keys}
    for run, name, value in _of_runs(connection, f"run_uuid, key, value FROM {table}", keys):
        if not name.startswith(INTERNAL) or table == "params":
            found[run][name] = value
    return found


def _metrics(connection: Connection, keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """Last values by run, without the system's."""
    found: dict[str, dict[str, float]] = {key: {} for key in keys}
    asked = "run_uuid, key, value, is_nan FROM latest_metrics"
    for run, name, value, is_nan in _of_runs(connection, asked, keys):
        if not name.startswith(SYSTEM):
            found[run][name] = float("nan") if is_nan else float(value)
    return found


def _of_runs(connection: Connection, columns: str, keys: Sequence[str]) -> Iterable[Any]:
    from sqlalchemy import bindparam, text

    asked = text(f"SELECT {columns} WHERE run_uuid IN :runs")
    asked = asked.bindparams(bindparam("runs", expanding=True))
    for first in range(0, len(keys), _MANY):
        yield from connection.execute(asked, {"runs": keys[first : first + _MANY]})
