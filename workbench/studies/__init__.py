"""Hyperparameter searches with Optuna."""

from __future__ import annotations

from workbench.studies.space import Choice, Integer, Real, SearchSpace, check_space, suggest
from workbench.studies.study import StudySpec, open_study, run_study, storage_url

__all__ = [
    "Choice",
    "Integer",
    "Real",
    "SearchSpace",
    "StudySpec",
    "check_space",
    "open_study",
    "run_study",
    "storage_url",
    "suggest",
]
