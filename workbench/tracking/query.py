"""Reading runs back: filtered, sorted and paged by the store, never a whole history at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.tracking.store import open_store, redact, sqlite_path, summary

if TYPE_CHECKING:
    import pandas

_PAGE = 200


@dataclass(frozen=True)
class RunRow:
    """One run as a table shows it. ``metrics`` holds each metric's last value, system ones aside.

    Times are ms since 1970; ``end_time`` is none while the run is going on.
    """

    run_id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def last_scores(self) -> dict[str, float]:
        """The evaluation's last values: {"fid": ...} for the metric "eval/fid"."""
        return _below("eval/", self.metrics)

    @property
    def best_scores(self) -> dict[str, float]:
        """The evaluation's best values: {"fid": ...} for the metric "best/fid"."""
        return _below("best/", self.metrics)


def list_runs(
    tracking_uri: str,
    experiment: str | None = None,
    *,
    limit: int = 50,
    where: str = "",
    order_by: str = "attributes.start_time DESC",
) -> list[RunRow]:
    """The first ``limit`` runs in ``order_by``; ``where`` is a filter in MLflow's own language.

    A store that does not exist yet has no runs, and asking does not create it.

    Raises:
        RequestError: unknown experiment, a filter or an address that MLflow does not take.
        WorkbenchError: the store does not answer.
    """
    if _absent(tracking_uri):
        if experiment is not None:
            raise unknown_name("experiment", experiment, [])
        return []
    with _asking(tracking_uri):
        client = open_store(tracking_uri)
        names = _experiments(client)
        if experiment is not None and experiment not in names.values():
            raise unknown_name("experiment", experiment, names.values())
        wanted = [key for key, name in names.items() if experiment in (None, name)]

        def page(token: str | None, size: int) -> Any:
            return client.search_runs(
                wanted, where, max_results=size, order_by=[order_by], page_token=token
            )

        return [_row(run, names) for run in _paged(page, limit)] if wanted else []


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
    with _asking(tracking_uri):
        client = open_store(tracking_uri)
        known = set(_get_run(client, tracking_uri, run_id).data.metrics)
        for key in keys or ():
            if key not in known:
                raise unknown_name("metric", key, known)
        chosen = keys if keys is not None else [k for k in known if not k.startswith("system/")]
        points = [
            (point.key, point.step, point.value, point.timestamp)
            for key in chosen
            for point in client.get_metric_history(run_id, key)
        ]
    frame = pandas.DataFrame(points, columns=["key", "step", "value", "timestamp"])
    return frame.sort_values(["key", "step", "timestamp"], ignore_index=True)


@contextmanager
def _asking(tracking_uri: str) -> Iterator[None]:
    """Turns whatever the store's libraries raise into one clear line."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        text = summary(error, tracking_uri)
        invalid = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
        raise (RequestError if invalid else WorkbenchError)(
            f"MLflow at {redact(tracking_uri)}: {text}"
        ) from error


def _absent(tracking_uri: str) -> bool:
    path = sqlite_path(tracking_uri)
    return path is not None and not path.exists()


def _get_run(client: Any, tracking_uri: str, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    raise unknown_name("run", run_id, [row.run_id for row in list_runs(tracking_uri, limit=10)])


def _experiments(client: Any) -> dict[str, str]:
    def page(token: str | None, size: int) -> Any:
        return client.search_experiments(max_results=size, page_token=token)

    return {str(found.experiment_id): str(found.name) for found in _paged(page)}


def _paged(page: Callable[[str | None, int], Any], limit: int | None = None) -> Iterator[Any]:
    token: str | None = None
    left = limit
    while left is None or left > 0:
        found = page(token, _PAGE if left is None else min(left, _PAGE))
        yield from found
        token = found.token
        left = None if left is None else left - len(found)
        if not token:
            return


def _row(run: Any, experiments: Mapping[str, str]) -> RunRow:
    info, data = run.info, run.data
    return RunRow(
        run_id=str(info.run_id),
        name=str(info.run_name),
        experiment=experiments[str(info.experiment_id)],
        experiment_id=str(info.experiment_id),
        status=str(info.status),
        start_time=int(info.start_time),
        end_time=int(info.end_time) if info.end_time and info.status != "RUNNING" else None,
        params=dict(data.params),
        tags={key: value for key, value in data.tags.items() if not key.startswith("mlflow.")},
        metrics={k: v for k, v in data.metrics.items() if not k.startswith("system/")},
    )


def _below(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix(prefix): v for key, v in metrics.items() if key.startswith(prefix)}
