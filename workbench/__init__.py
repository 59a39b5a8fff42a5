"""Distil flow-matching text-to-image teachers into few-step generators."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.api import evaluate, run
    from workbench.reports.api import compare, load_run, scores
    from workbench.teachers.base import Conditioning
    from workbench.training.config import RunConfig
    from workbench.training.distill import distill

__version__ = "0.1.0"

# Waiting threads of GNU OpenMP spin for long by default, which on a shared machine steals the
# core from the thread they wait for (two processes: 1.8 times slower; alone: no gain measured).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

_LAZY = {
    "Conditioning": "workbench.teachers.base",
    "RunConfig": "workbench.training.config",
    "compare": "workbench.reports.api",
    "distill": "workbench.training.distill",
    "evaluate": "workbench.api",
    "load_run": "workbench.reports.api",
    "run": "workbench.api",
    "scores": "workbench.reports.api",
}
"""Public names by home; imported on first use, so that the command line starts quickly."""

__all__ = [
    "Conditioning",
    "RunConfig",
    "__version__",
    "compare",
    "distill",
    "evaluate",
    "load_run",
    "run",
    "scores",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
