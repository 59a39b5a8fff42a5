"""Which MLflow run a folder is."""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from workbench.errors import RequestError
from workbench.tracking.base import RunIdentity
from workbench.tracking.journal import write_atomically
from workbench.tracking.spool import tracking_dir
from workbench.tracking.store import redact


@dataclass(frozen=True)
class RunRecord:
    """``mlflow.json``: which MLflow run this folder is. ``run_key`` finds a run whose id was lost.

    ``tracking_uri`` carries no password.
    """

    experiment: str
    name: str
    run_key: str
    start_time: int
    tracking_uri: str
    artifact_root: str | None
    run_id: str | None = None

    @classmethod
    def new(
        cls, identity: RunIdentity, uri: str, artifact_root: Path | None, start_time: int
    ) -> RunRecord:
        return cls(
            experiment=identity.experiment,
            name=identity.name,
            run_key=uuid.uuid4().hex,
            start_time=start_time,
            tracking_uri=redact(uri),
            artifact_root=None if artifact_root is None else str(artifact_root.resolve()),
        )


def load_record(run_dir: Path) -> RunRecord | None:
    """The record of a tracked run; none when the folder has none.

    Raises:
        RequestError: it is damaged.
    """
    path = _record_path(run_dir)
    try:
        return RunRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise RequestError(f"{path} is damaged ({error}); delete it to track anew.") from error


def save_record(run_dir: Path, record: RunRecord) -> None:
    """Replaces the record in one step."""
    write_atomically(_record_path(run_dir), json.dumps(asdict(record), indent=2) + "\n")


def _record_path(run_dir: Path) -> Path:
    return tracking_dir(run_dir) / "mlflow.json"
