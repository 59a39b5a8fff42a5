"""Runs: from a configuration to results, and back to models."""

from __future__ import annotations

from workbench.runs.export import Export, ExportRequest, export_student
from workbench.runs.folder import RunFolder, all_runs, find_run, run_folder
from workbench.runs.inference import evaluate_model, sample_model
from workbench.runs.models import Drawing, LoadedModel, LoadedStudent, load_model, load_student
from workbench.runs.session import RunOutcome, RunRequest, check_request, execute
from workbench.runs.summary import summary

__all__ = [
    "Drawing",
    "Export",
    "ExportRequest",
    "LoadedModel",
    "LoadedStudent",
    "RunFolder",
    "RunOutcome",
    "RunRequest",
    "all_runs",
    "check_request",
    "evaluate_model",
    "execute",
    "export_student",
    "find_run",
    "load_model",
    "load_student",
    "run_folder",
    "sample_model",
    "summary",
]
