"""Runs: from a configuration to results, and back to models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.lazy import lazy_names

if TYPE_CHECKING:
    from workbench.runs.evaluate import EvaluateRequest, evaluate_source
    from workbench.runs.execution import (
        RunOutcome,
        RunRequest,
        check_request,
        check_sources,
        execute,
        prepare_run,
        recall,
    )
    from workbench.runs.export import Export, ExportRequest, export_student
    from workbench.runs.folder import RunFolder, all_runs, find_run, run_folder
    from workbench.runs.inference import sample_model
    from workbench.runs.jobs import Handle, Job, Launcher, LocalLauncher
    from workbench.runs.models import Drawing, LoadedModel, LoadedStudent, load_model, load_student
    from workbench.runs.pool import JobView, Watcher, run_jobs
    from workbench.runs.scored_rows import Evaluation
    from workbench.runs.signals import stop_on_signals
    from workbench.runs.summary import summarize

__all__ = [
    "Drawing",
    "EvaluateRequest",
    "Evaluation",
    "Export",
    "ExportRequest",
    "Handle",
    "Job",
    "JobView",
    "Launcher",
    "LoadedModel",
    "LoadedStudent",
    "LocalLauncher",
    "RunFolder",
    "RunOutcome",
    "RunRequest",
    "Watcher",
    "all_runs",
    "check_request",
    "check_sources",
    "evaluate_source",
    "execute",
    "export_student",
    "find_run",
    "load_model",
    "load_student",
    "prepare_run",
    "recall",
    "run_folder",
    "run_jobs",
    "sample_model",
    "stop_on_signals",
    "summarize",
]

__getattr__ = lazy_names(
    __name__,
    __all__,
    (
        "folder",
        "summary",
        "jobs",
        "pool",
        "signals",
        "export",
        "inference",
        "models",
        "execution",
        "evaluate",
    ),
)
