"""Runs: from a configuration to results, and back to models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workbench.runs.export import Export, ExportRequest, export_student
    from workbench.runs.folder import RunFolder, all_runs, find_run, run_folder
    from workbench.runs.inference import evaluate_model, sample_model
    from workbench.runs.jobs import Handle, Job, Launcher, LocalLauncher
    from workbench.runs.models import Drawing, LoadedModel, LoadedStudent, load_model, load_student
    from workbench.runs.pool import JobView, Watcher, run_jobs
    from workbench.runs.session import RunOutcome, RunRequest, check_request, execute
    from workbench.runs.signals import stop_on_signals
    from workbench.runs.summary import summarize

__all__ = [
    "Drawing",
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
    "evaluate_model",
    "execute",
    "export_student",
    "find_run",
    "load_model",
    "load_student",
    "run_folder",
    "run_jobs",
    "sample_model",
    "stop_on_signals",
    "summarize",
]

_MODULES = (
    "folder",
    "summary",
    "jobs",
    "pool",
    "signals",
    "export",
    "inference",
    "models",
    "session",
)
"""Where the names above are defined, light modules first."""


def __getattr__(name: str) -> object:
    """Loads what is asked for and no more: listing 500 runs must not wait for torch."""
    if name in __all__:
        for module in _MODULES:
            found = import_module(f"{__name__}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
