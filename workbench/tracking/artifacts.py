"""Files and notes in the store, read and written directly: for what is not a run in progress."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.tracking.base import RunIdentity
from workbench.tracking.store import asking, get_or_create_experiment, open_store


def read_artifact(tracking_uri: str, run_id: str, path: str) -> str:
    """The text of one of a run's artifacts.

    Raises:
        WorkbenchError: the store or the file does not answer.
    """
    return read_artifact_bytes(tracking_uri, run_id, path).decode("utf-8")


def read_artifact_bytes(tracking_uri: str, run_id: str, path: str) -> bytes:
    """The content of one of a run's artifacts.

    Raises:
        WorkbenchError: the store or the file does not answer.
    """
    with asked_client(tracking_uri) as client, tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def list_artifacts(tracking_uri: str, run_id: str, folder: str = "") -> list[str]:
    """Paths of a run's artifacts in one folder.

    Raises:
        WorkbenchError: the store does not answer.
    """
    with asked_client(tracking_uri) as client:
        return [str(item.path) for item in client.list_artifacts(run_id, folder or None)]


def add_artifact(tracking_uri: str, run_id: str, path: Path, folder: str = "") -> None:
    """Put a file among a run's artifacts, replacing one of the same name.

    Raises:
        WorkbenchError: the store does not take it.
    """
    with asked_client(tracking_uri) as client:
        client.log_artifact(run_id, str(path), folder or None)


def restore_run(tracking_uri: str, run_id: str) -> None:
    """Take back that a run was deleted in MLflow.

    Raises:
        WorkbenchError: the store does not answer, or does not know the run.
    """
    with asked_client(tracking_uri) as client:
        if client.get_run(run_id).info.lifecycle_stage == "deleted":
            client.restore_run(run_id)


def log_files(
    tracking_uri: str, identity: RunIdentity, files: Iterable[Path], artifact_root: Path | None
) -> str:
    """Put files into a finished run of their own; returns its id.

    ``artifact_root`` is where a database store keeps the files of an experiment that is new.

    Raises:
        WorkbenchError: the store does not take them.
    """
    with asked_client(tracking_uri) as client:
        experiment = get_or_create_experiment(client, identity.experiment, artifact_root)
        run = client.create_run(experiment, run_name=identity.name, tags=dict(identity.tags))
        run_id, status = str(run.info.run_id), "FAILED"
        try:
            for path in files:
                client.log_artifact(run_id, str(path))
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)
    return run_id


def describe_experiment(tracking_uri: str, experiment_id: str, markdown: str) -> None:
    """Replace the description of an MLflow experiment.

    Raises:
        WorkbenchError: the store does not take it.
    """
    with asked_client(tracking_uri) as client:
        client.set_experiment_tag(experiment_id, "mlflow.note.content", markdown)


@contextmanager
def asked_client(tracking_uri: str) -> Iterator[Any]:
    """An MLflow client whose troubles are one clear line."""
    with asking(tracking_uri):
        yield open_store(tracking_uri)
