"""Runs through MLflow's own client: any store, any filter, any order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from workbench.errors import unknown_name
from workbench.tracking.rows import INTERNAL, SYSTEM, Question, RunRow, ended
from workbench.tracking.store import open_store

PAGE = 200
"""Runs asked for at once: MLflow waits ten seconds for each page."""


def answer(tracking_uri: str, question: Question) -> list[RunRow]:
    """The runs.

    Raises:
        RequestError: unknown experiment.
        MlflowException: the store refuses the question or does not answer.
    """
    client = open_store(tracking_uri)
    names = _experiments(client)
    if question.experiment is not None and question.experiment not in names.values():
        raise unknown_name("experiment", question.experiment, names.values())
    wanted = [key for key, name in names.items() if question.experiment in (None, name)]

    def page(token: str | None, size: int) -> Any:
        order = [question.order_by]
        return client.search_runs(
            wanted, question.where, max_results=size, order_by=order, page_token=token
        )

    return [_row(run, names) for run in _paged(page, question.limit)] if wanted else []


def _experiments(client: Any) -> dict[str, str]:
    def page(token: str | None, size: int) -> Any:
        return client.search_experiments(max_results=size, page_token=token)

    return {str(found.experiment_id): str(found.name) for found in _paged(page)}


def _paged(page: Callable[[str | None, int], Any], limit: int | None = None) -> Iterator[Any]:
    token: str | None = None
    left = limit
    while left is None or left > 0:
        found = page(token, PAGE if left is None else min(left, PAGE))
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
        end_time=ended(str(info.status), info.end_time),
        params=dict(data.params),
        tags={key: value for key, value in data.tags.items() if not key.startswith(INTERNAL)},
        metrics={k: v for k, v in data.metrics.items() if not k.startswith(SYSTEM)},
    )
