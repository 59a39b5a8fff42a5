"""MLflow behind a small Tracker whose base class is the no-op. Imports neither MLflow nor torch."""

from workbench.tracking.artifacts import (
    add_artifact,
    describe_experiment,
    list_artifacts,
    log_files,
    read_artifact,
    read_artifact_bytes,
    restore_run,
)
from workbench.tracking.base import (
    KIND,
    SEEN_ALIVE,
    STUDENT_SAMPLES,
    InputData,
    RunIdentity,
    RunStatus,
    Tracker,
)
from workbench.tracking.curve import TAG as CURVE_TAG
from workbench.tracking.curve import Curve, curve_of, curve_tags, read_curve
from workbench.tracking.environment import environment_tags
from workbench.tracking.journal import Operation, read_backwards, read_operations
from workbench.tracking.mlflow_tracker import (
    MlflowTracker,
    UploaderSettings,
    add_later,
    end_later,
    sync,
)
from workbench.tracking.outbox import Point, journal_path, last_status, read_points, tracking_dir
from workbench.tracking.query import check_store, list_runs, metric_history
from workbench.tracking.record import RunRecord, load_record, save_record
from workbench.tracking.rows import RunRow
from workbench.tracking.store import (
    check_uri,
    default_artifact_root,
    default_uri,
    ensure_store,
    redact,
    without_user,
)
from workbench.tracking.ui import (
    compare_address,
    experiment_address,
    run_address,
    server_base,
    server_command,
    server_environment,
)
from workbench.tracking.uploader import DeletedRunError
from workbench.tracking.views import publish_comparison

__all__ = [
    "CURVE_TAG",
    "KIND",
    "SEEN_ALIVE",
    "STUDENT_SAMPLES",
    "Curve",
    "DeletedRunError",
    "InputData",
    "MlflowTracker",
    "Operation",
    "Point",
    "RunIdentity",
    "RunRecord",
    "RunRow",
    "RunStatus",
    "Tracker",
    "UploaderSettings",
    "add_artifact",
    "add_later",
    "check_store",
    "check_uri",
    "compare_address",
    "curve_of",
    "curve_tags",
    "default_artifact_root",
    "default_uri",
    "describe_experiment",
    "end_later",
    "ensure_store",
    "environment_tags",
    "experiment_address",
    "journal_path",
    "last_status",
    "list_artifacts",
    "list_runs",
    "load_record",
    "log_files",
    "metric_history",
    "publish_comparison",
    "read_artifact",
    "read_artifact_bytes",
    "read_backwards",
    "read_curve",
    "read_operations",
    "read_points",
    "redact",
    "restore_run",
    "run_address",
    "save_record",
    "server_base",
    "server_command",
    "server_environment",
    "sync",
    "tracking_dir",
    "without_user",
]
