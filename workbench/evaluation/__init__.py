"""Scores of samplers: observers, metrics, references, the evaluator, sample grids."""

from __future__ import annotations

from workbench.evaluation.catalog import FEATURES, Observers, check_names, make_metrics
from workbench.evaluation.evaluator import Evaluator, Scores
from workbench.evaluation.feature_cache import FeatureCache
from workbench.evaluation.frechet import FeatureStatistics, frechet_distance
from workbench.evaluation.grids import image_grid
from workbench.evaluation.intervals import Extrapolation, Interval
from workbench.evaluation.metrics import (
    CmmdMetric,
    FrechetMetric,
    KernelMetric,
    MeanMetric,
    Metric,
    PrecisionMetric,
    RecallMetric,
    ReferenceRows,
)
from workbench.evaluation.observations import Observations
from workbench.evaluation.observers import Observer
from workbench.evaluation.prompts import apportion, prompt_mix
from workbench.evaluation.references import Reference, list_references, open_reference
from workbench.evaluation.setup import build_evaluator, check_evaluation, prepare_evaluation
from workbench.evaluation.viewing import Keeper, Sampler, Viewing

__all__ = [
    "FEATURES",
    "CmmdMetric",
    "Evaluator",
    "Extrapolation",
    "FeatureCache",
    "FeatureStatistics",
    "FrechetMetric",
    "Interval",
    "Keeper",
    "KernelMetric",
    "MeanMetric",
    "Metric",
    "Observations",
    "Observer",
    "Observers",
    "PrecisionMetric",
    "RecallMetric",
    "Reference",
    "ReferenceRows",
    "Sampler",
    "Scores",
    "Viewing",
    "apportion",
    "build_evaluator",
    "check_evaluation",
    "check_names",
    "frechet_distance",
    "image_grid",
    "list_references",
    "make_metrics",
    "open_reference",
    "prepare_evaluation",
    "prompt_mix",
]
