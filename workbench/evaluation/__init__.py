"""Scores of samplers: observers, metrics, references, the evaluator, sample grids."""

from __future__ import annotations

from workbench.evaluation.catalog import FEATURES, Observers, check_names, make_metrics
from workbench.evaluation.digits import DIGITS_METRICS, default_metrics, digits_evaluator
from workbench.evaluation.digits_classifier import (
    ClassifierRecipe,
    DigitAlignment,
    DigitsClassifier,
    load_or_train,
)
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
from workbench.evaluation.viewing import Keeper, Peers, Sampler, Viewing

__all__ = [
    "DIGITS_METRICS",
    "FEATURES",
    "ClassifierRecipe",
    "CmmdMetric",
    "DigitAlignment",
    "DigitsClassifier",
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
    "Peers",
    "PrecisionMetric",
    "RecallMetric",
    "Reference",
    "ReferenceRows",
    "Sampler",
    "Scores",
    "Viewing",
    "apportion",
    "check_names",
    "default_metrics",
    "digits_evaluator",
    "frechet_distance",
    "image_grid",
    "list_references",
    "load_or_train",
    "make_metrics",
    "open_reference",
    "prompt_mix",
]
