"""Runs from an MLflow server by REST, without the seconds that importing MLflow takes."""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.tracking.rows import Condition, RunRow, ended, shown_metrics, shown_tags
from workbench.tracking.store import prepare_environment

if TYPE_CHECKING:
    import requests

PAGE = 500
"""Runs asked for at once. Every page costs a round; a whole store in one would time out."""

_API = "/api/2.0/mlflow/"

_SPECIAL = (
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_WORKSPACE",
)
"""Ways to reach a server for which MLflow makes the request, and is imported."""

Post = Callable[[str, Mapping[str, Any]], "requests.Response"]


class RefusedError(Exception):
    """What the server answered instead; ``error_code`` is MLflow's name for it."""

    def __init__(self, status: int, text: str, error_code: str = "") -> None:
        super().__init__(f"{text or 'no explanation'} (HTTP {status})")
        self.error_code = error_code


@contextmanager
def server_reader(tracking_uri: str, patience: int = 6) -> Iterator[ServerReader]:
    """Reads while the context is open.

    Args:
        patience: how many times the usual timeout an answer may take. A server that is there may
            take its time over a page of runs.
    """
    import requests

    prepare_environment()
    base = tracking_uri.rstrip("/")
    seconds = float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    timeout = (seconds, patience * seconds)
    if any(os.environ.get(name) for name in _SPECIAL):
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        there = get_default_host_creds(base)
        yield ServerReader(
            lambda path, body: http_request(there, path, "POST", timeout=timeout, json=body)
        )
        return
    with requests.Session() as session:
        user, password = requests.utils.get_auth_from_url(tracking_uri)
        session.auth = requests.auth.HTTPBasicAuth(user, password) if user else _sign
        yield ServerReader(
            lambda path, body: session.post(f"{base}{path}", json=body, timeout=timeout)
        )


class ServerReader:
    """Asks a server.

    Its methods raise RefusedError if the server takes the question for wrong, does not let us in
    or is none of MLflow's, and requests.RequestException if it does not answer.
    """

    def __init__(self, post: Post) -> None:
        self._post = post

    def experiments(self) -> dict[str, str]:
        """Names of the experiments that are not deleted, by id."""
        return {
            str(found["experiment_id"]): str(found["name"])
            for found in self._paged("experiments/search", "experiments", {})
        }

    def runs(
        self, experiments: Mapping[str, str], limit: int, conditions: Sequence[Condition]
    ) -> list[RunRow]:
        """The newest runs of the experiments for which all conditions hold."""
        body = {
            "experiment_ids": list(experiments),
            "filter": " AND ".join(f"{c.table}.`{c.key}` = '{c.value}'" for c in conditions),
            "order_by": ["attributes.start_time DESC"],
        }
        return [_row(run, experiments) for run in self._paged("runs/search", "runs", body, limit)]

    def _paged(
        self, path: str, key: str, body: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        token: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = {"max_results": size, **({"page_token": token} if token else {})}
            found = _values(self._post(_API + path, {**body, **page}))
            rows = found.get(key, [])
            yield from rows
            token = found.get("next_page_token")
            left = None if left is None else left - len(rows)
            if not token:
                return


def _sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Who asks, as MLflow's client has it: from the environment, else from its credentials file."""
    from requests.auth import HTTPBasicAuth

    file = configparser.ConfigParser(interpolation=None)
    file.read(Path("~/.mlflow/credentials").expanduser(), encoding="utf-8")
    kept = dict(file["mlflow"]) if file.has_section("mlflow") else {}
    user, password = (
        os.environ.get(name.upper()) or kept.get(name)
        for name in ("mlflow_tracking_username", "mlflow_tracking_password")
    )
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        return HTTPBasicAuth(user, password)(request)
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


def _row(run: Mapping[str, Any], experiments: Mapping[str, str]) -> RunRow:
    info, data = run["info"], run.get("data", {})
    end = info.get("end_time")
    return RunRow(
        run_id=str(info["run_id"]),
        name=str(info["run_name"]),
        experiment=experiments[str(info["experiment_id"])],
        experiment_id=str(info["experiment_id"]),
        status=str(info["status"]),
        start_time=int(info.get("start_time") or 0),
        end_time=ended(str(info["status"]), None if end is None else int(end)),
        params=_pairs(data.get("params", [])),
        tags=shown_tags(_pairs(data.get("tags", []))),
        metrics=shown_metrics(_pairs(data.get("metrics", []))),
    )


def _pairs(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(item["key"]): item.get("value", "") for item in items}
