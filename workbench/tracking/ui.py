"""Addresses inside the MLflow UI, and the command that serves it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from workbench.errors import RequestError
from workbench.tracking.store import SERVER_SCHEMES


def run_address(base: str, experiment_id: str, run_id: str) -> str:
    """One run's page."""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def experiment_address(base: str, experiment_id: str, charts: bool = False) -> str:
    """An experiment's runs, as a table or as charts."""
    mode = "?compareRunsMode=CHART" if charts else ""
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs{mode}"


def compare_address(base: str, experiment_ids: Sequence[str], run_ids: Sequence[str]) -> str:
    """Several runs side by side."""
    runs, experiments = _listed(run_ids), _listed(experiment_ids)
    return f"{base.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}"


def server_base(store_uri: str) -> str | None:
    """Where a browser finds the UI of a tracking server, without its password.

    None where the store is a database, which has no UI until somebody serves it.
    """
    parts = urlsplit(store_uri)
    if parts.scheme not in SERVER_SCHEMES:
        return None
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path.rstrip("/"), "", ""))


def server_command(artifact_root: Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line of an MLflow server (with UI); its environment names the store."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)),
        *("--artifacts-destination", str(artifact_root), "--workers", "1"),
    ]


def server_environment(store_uri: str) -> dict[str, str]:
    """What :func:`server_command` needs in its environment to serve a database store.

    The address may hold a password, and everybody on a machine can read command lines. Bring a
    fresh store up with ``ensure_store`` first.

    Raises:
        RequestError: the store is a server itself.
    """
    if server_base(store_uri) is not None:
        raise RequestError("This store is a server already: open its address in a browser.")
    return {
        "MLFLOW_BACKEND_STORE_URI": store_uri,
        # Else it starts a job runner and a dozen children, and takes three times as long.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _listed(names: Sequence[str]) -> str:
    return quote(json.dumps(list(names), separators=(",", ":")))
