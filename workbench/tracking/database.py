"""Runs straight from a database's tables: what a table of runs needs costs five queries.

Only columns are read that MLflow's tables have had since its first versions, whatever revision
their schema is of, and nothing is ever written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, case, column, create_engine, inspect, select, table
from sqlalchemy.pool import NullPool

from workbench.tracking.rows import Condition, RunRow, ended, shown_metrics, shown_tags
from workbench.tracking.store import prepare_environment

_MANY = 500
"""Values bound to one query: every database takes so many."""


@contextmanager
def database_reader(tracking_uri: str) -> Iterator[DatabaseReader]:
    """Reads while the context is open."""
    prepare_environment()
    with create_engine(tracking_uri, poolclass=NullPool).connect() as connection:
        yield DatabaseReader(connection)


class DatabaseReader:
    """Reads MLflow's tables; the same methods as :class:`~workbench.tracking.rest.ServerReader`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def experiments(self) -> dict[str, str]:
        if not inspect(self._connection).has_table("experiments"):
            return {}
        asked = _columns("experiments", "experiment_id", "name", "lifecycle_stage")
        active = asked.where(column("lifecycle_stage") == "active")
        return {str(key): str(name) for key, name, _ in self._connection.execute(active)}

    def runs(
        self, experiments: Mapping[str, str], limit: int, conditions: Sequence[Condition]
    ) -> list[RunRow]:
        start: Any = column("start_time")
        key: Any = column("run_uuid")
        asked = (
            _columns("runs", "run_uuid", "name", "experiment_id", "status", start, "end_time")
            .where(column("lifecycle_stage") == "active")
            .where(column("experiment_id").in_([int(each) for each in experiments]))
            .order_by(case((start.is_(None), 1), else_=0), start.desc(), key)
            .limit(limit)
        )
        for wanted in conditions:
            holding = _columns(wanted.table, "run_uuid").where(column("key") == wanted.key)
            asked = asked.where(key.in_(holding.where(column("value") == wanted.value)))
        found = self._connection.execute(asked).all()
        keys = [run.run_uuid for run in found]
        params = self._of_runs("params", keys, "key", "value")
        tags = self._of_runs("tags", keys, "key", "value")
        metrics = self._of_runs("latest_metrics", keys, "key", "value", "is_nan")
        return [
            RunRow(
                run_id=str(run.run_uuid),
                name=str(run.name),
                experiment=experiments[str(run.experiment_id)],
                experiment_id=str(run.experiment_id),
                status=str(run.status),
                start_time=int(run.start_time or 0),  # MLflow allows none
                end_time=ended(run.status, run.end_time),
                params=dict(params[run.run_uuid]),
                tags=shown_tags(dict(tags[run.run_uuid])),
                metrics=shown_metrics(
                    {k: float("nan") if nan else v for k, v, nan in metrics[run.run_uuid]}
                ),
            )
            for run in found
        ]

    def _of_runs(self, name: str, keys: Sequence[str], *columns: str) -> dict[str, list[Any]]:
        """A table's rows by run."""
        asked = _columns(name, "run_uuid", *columns)
        found: dict[str, list[Any]] = defaultdict(list)
        for first in range(0, len(keys), _MANY):
            part = asked.where(column("run_uuid").in_(keys[first : first + _MANY]))
            for run, *values in self._connection.execute(part):
                found[run].append(values)
        return found


def _columns(name: str, *columns: Any) -> Any:
    """SELECT of a table's columns by name; SQLAlchemy quotes ``key``, which MySQL reserves."""
    chosen = [column(each) if isinstance(each, str) else each for each in columns]
    return select(*chosen).select_from(table(name))
