"""Runs from an MLflow server by REST, without the seconds that importing MLflow takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name
from workbench.tracking.rows import INTERNAL, SYSTEM, Question, RunRow, ended
from workbench.tracking.store import SERVER_SCHEMES, prepare_environment

if TYPE_CHECKING:
    import requests

PAGE = 500
"""Runs asked for at once. Every page costs a round; a whole store in one would time out."""

_PATIENCE = 6

_SPECIAL = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_WORKSPACE",
)
"""Ways to reach a server that are left to MLflow's own client."""

Ask = Callable[[str, Mapping[str, Any]], dict[str, Any]]


class RefusedError(Exception):
    """What the server answered instead; ``error_code`` is MLflow's name for it."""

    def __init__(self, status: int, text: str, error_code: str = "") -> None:
        super().__init__(f"{text or 'no explanation'} (HTTP {status})")
        self.error_code = error_code


def answer(tracking_uri: str, question: Question) -> list[RunRow] | None:
    """The runs; None where MLflow's own client has to ask: no server, or special ways to it.

    Raises:
        RequestError: unknown experiment.
        RefusedError: the server takes the question for wrong, or does not let us in.
        requests.RequestException: the server does not answer.
    """
    if not _takes(tracking_uri):
        return None
    # A server that is there may take its time over a page of runs.
    with _asking(tracking_uri, _PATIENCE) as ask:
        names = {
            str(found["experiment_id"]): str(found["name"])
            for found in _paged(ask, "experiments/search", "experiments", {})
        }
        if question.experiment is not None and question.experiment not in names.values():
            raise unknown_name("experiment", question.experiment, names.values())
        wanted = [key for key, name in names.items() if question.experiment in (None, name)]
        if not wanted:
            return []
        body = {
            "experiment_ids": wanted,
            "filter": question.where,
            "order_by": [question.order_by],
        }
        runs = _paged(ask, "runs/search", "runs", body, question.limit)
        return [_row(run, names) for run in runs]


def ping(tracking_uri: str) -> bool:
    """Asks a server for one experiment; False where MLflow's own client has to ask.

    Raises:
        RefusedError: this is no MLflow server, or it does not let us in.
        requests.RequestException: nobody answers.
    """
    if not _takes(tracking_uri):
        return False
    with _asking(tracking_uri, 1) as ask:
        ask("experiments/search", {"max_results": 1})
    return True


def _takes(tracking_uri: str) -> bool:
    named = any(os.environ.get(name) for name in _SPECIAL)
    special = named or Path("~/.mlflow/credentials").expanduser().exists()
    return tracking_uri.startswith(SERVER_SCHEMES) and not special


@contextmanager
def _asking(tracking_uri: str, patience: int) -> Iterator[Ask]:
    """Questions to a server, whose answers may take so many times the usual timeout."""
    import requests

    prepare_environment()
    timeout = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    with requests.Session() as session:
        user, password = requests.utils.get_auth_from_url(tracking_uri)
        session.auth = requests.auth.HTTPBasicAuth(user, password) if user else _Credentials()

        def ask(path: str, body: Mapping[str, Any]) -> dict[str, Any]:
            url = f"{tracking_uri.rstrip('/')}/api/2.0/mlflow/{path}"
            return _values(session.post(url, json=body, timeout=(timeout, patience * timeout)))

        yield ask


class _Credentials:
    """What MLflow's client takes from the environment, for an address without a password."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        from requests.auth import HTTPBasicAuth

        name = os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        if name and password:
            return HTTPBasicAuth(name, password)(request)
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request


def _values(reply: requests.Response) -> dict[str, Any]:
    try:
        values = reply.json()
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise RefusedError(reply.status_code, f"no MLflow server's answer: {reply.text[:120]}")
    if reply.status_code != 200:
        text, code = str(values.get("message", "")), str(values.get("error_code", ""))
        raise RefusedError(reply.status_code, text, code)
    return values


def _paged(
    ask: Ask, path: str, key: str, body: Mapping[str, Any], limit: int | None = None
) -> Iterator[dict[str, Any]]:
    token: str | None = None
    left = limit
    while left is None or left > 0:
        size = PAGE if left is None else min(left, PAGE)
        page = {"max_results": size, **({"page_token": token} if token else {})}
        found = ask(path, {**body, **page})
        rows = found.get(key, [])
        yield from rows
        token = found.get("next_page_token")
        left = None if left is None else left - len(rows)
        if not token:
            return


def _row(run: Mapping[str, Any], experiments: Mapping[str, str]) -> RunRow:
    info, data = run["info"], run.get("data", {})
    tags = _pairs(data.get("tags", []))
    metrics = _pairs(data.get("metrics", []))
    end = info.get("end_time")
    return RunRow(
        run_id=str(info["run_id"]),
        name=str(info["run_name"]),
        experiment=experiments[str(info["experiment_id"])],
        experiment_id=str(info["experiment_id"]),
        status=str(info["status"]),
        start_time=int(info["start_time"]),
        end_time=ended(str(info["status"]), None if end is None else int(end)),
        params=_pairs(data.get("params", [])),
        tags={key: value for key, value in tags.items() if not key.startswith(INTERNAL)},
        metrics={key: float(v) for key, v in metrics.items() if not key.startswith(SYSTEM)},
    )


def _pairs(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(item["key"]): item.get("value", "") for item in items}
