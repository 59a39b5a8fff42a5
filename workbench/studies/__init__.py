"""Hyperparameter searches with Optuna.

Here are the names that experiment files and lists need; the work is in the modules, which load
Optuna and torch.
"""

from __future__ import annotations

from workbench.studies.check import check_entries, check_space
from workbench.studies.space import Choice, Integer, Real, SearchSpace
from workbench.studies.spec import StudySettings, StudySpec

__all__ = [
    "Choice",
    "Integer",
    "Real",
    "SearchSpace",
    "StudySettings",
    "StudySpec",
    "check_entries",
    "check_space",
]
