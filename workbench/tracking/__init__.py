"""MLflow behind a small Tracker whose base class is the no-op. Imports neither MLflow nor torch."""

from workbench.tracking.base import InputData, RunIdentity, RunStatus, Tracker
from workbench.tracking.environment import environment_tags, git_tags
from workbench.tracking.mlflow_tracker import DeliverySettings, MlflowTracker, sync
from workbench.tracking.query import RunRow, list_runs, metric_history
from workbench.tracking.record import RunRecord, load_record
from workbench.tracking.spool import Point, last_status, read_points
from workbench.tracking.store import (
    check_uri,
    default_artifact_root,
    default_uri,
    ensure_store,
    redact,
)
from workbench.tracking.ui import (
    SERVER_ENVIRONMENT,
    compare_address,
    experiment_address,
    metric_address,
    run_address,
    server_command,
)

__all__ = [
    "SERVER_ENVIRONMENT",
    "DeliverySettings",
    "InputData",
    "MlflowTracker",
    "Point",
    "RunIdentity",
    "RunRecord",
    "RunRow",
    "RunStatus",
    "Tracker",
    "check_uri",
    "compare_address",
    "default_artifact_root",
    "default_uri",
    "ensure_store",
    "environment_tags",
    "experiment_address",
    "git_tags",
    "last_status",
    "list_runs",
    "load_record",
    "metric_address",
    "metric_history",
    "read_points",
    "redact",
    "run_address",
    "server_command",
    "sync",
]
