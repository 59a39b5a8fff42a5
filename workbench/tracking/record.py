"""Which MLflow run a folder is, and how much of its journal that run has."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.tracking.base import RunIdentity
from workbench.tracking.outbox import tracking_dir
from workbench.tracking.store import redact
from workbench.workspace import write_json


@dataclass(frozen=True)
class RunRecord:
    """``mlflow.json``: which MLflow run this folder is. ``run_key`` finds a run whose id was lost.

    ``tracking_uri`` is saved without its password. ``rows`` and ``files`` say up to which byte the
    journal was delivered. Rows (numbers and texts) and files travel apart: an artifact store that
    is out of reach must not hold back the curves.
    """

    experiment: str
    name: str
    run_key: str
    start_time: int
    tracking_uri: str
    artifact_root: str | None
    run_id: str | None = None
    rows: int = 0
    files: int = 0

    @classmethod
    def new(
        cls, identity: RunIdentity, uri: str, artifact_root: Path | None, start_time: int
    ) -> RunRecord:
        return cls(
            experiment=identity.experiment,
            name=identity.name,
            run_key=uuid.uuid4().hex,
            start_time=start_time,
            tracking_uri=uri,
            artifact_root=None if artifact_root is None else str(artifact_root.resolve()),
        )

    def at(self, uri: str) -> RunRecord:
        """The record at an address; another store has nothing of the run yet.

        Should it be the same store by another name, it finds the run by its key.
        """
        if redact(uri) == redact(self.tracking_uri):
            return replace(self, tracking_uri=uri)
        return replace(self, tracking_uri=uri, run_id=None, rows=0, files=0)

    def of_run(self, run_id: str) -> RunRecord:
        """The record of this MLflow run, to which all is still to be sent if it is another one."""
        return self if run_id == self.run_id else replace(self, run_id=run_id, rows=0, files=0)


def load_record(run_dir: Path) -> RunRecord | None:
    """The record of a tracked run; none when the folder has none.

    Earlier versions saved addresses with a token in clear: that is taken out of the file.

    Raises:
        RequestError: it is damaged.
    """
    path = _record_path(run_dir)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        record = RunRecord(**{**_old_cursor(run_dir, values), **values})
        shown = redact(record.tracking_uri)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is damaged ({error}); delete it to track anew.") from error
    if shown != record.tracking_uri:
        record = replace(record, tracking_uri=shown)
        with suppress(OSError):  # a reader may be somebody else, who may not write here
            save_record(run_dir, record)
    return record


def save_record(run_dir: Path, record: RunRecord) -> None:
    """Replaces the record in one step."""
    saved = replace(record, tracking_uri=redact(record.tracking_uri))
    write_json(_record_path(run_dir), asdict(saved))


def _old_cursor(run_dir: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What earlier versions kept in a file of its own; without it, all is sent once more."""
    path = tracking_dir(run_dir) / "cursor.json"
    try:
        cursor = json.loads(path.read_text(encoding="utf-8"))
        return dict(cursor) if cursor["run_id"] == record["run_id"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _record_path(run_dir: Path) -> Path:
    return tracking_dir(run_dir) / "mlflow.json"
