"""Scores of samplers: extractors, metrics, references, the evaluator, sample grids."""

from __future__ import annotations

from workbench.evaluation.catalog import FEATURES, FeatureExtractors, check_names, make_metrics
from workbench.evaluation.evaluator import Evaluator, Scores
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_cache import FeatureCache
from workbench.evaluation.feature_table import FeatureTable
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
from workbench.evaluation.prompts import apportion, prompt_mix
from workbench.evaluation.references import Reference, list_references, open_reference
from workbench.evaluation.sample_loop import ImageSink, SampleLoop, Sampler
from workbench.evaluation.setup import build_evaluator, check_evaluation, prepare_evaluation

__all__ = [
    "FEATURES",
    "CmmdMetric",
    "Evaluator",
    "Extrapolation",
    "FeatureCache",
    "FeatureExtractor",
    "FeatureExtractors",
    "FeatureStatistics",
    "FeatureTable",
    "FrechetMetric",
    "ImageSink",
    "Interval",
    "KernelMetric",
    "MeanMetric",
    "Metric",
    "PrecisionMetric",
    "RecallMetric",
    "Reference",
    "ReferenceRows",
    "SampleLoop",
    "Sampler",
    "Scores",
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
