"""Scores of samplers: features, Frechet distance, prompt alignment, the evaluator, sample grids."""

from __future__ import annotations

from workbench.evaluation.digits import DIGITS_METRICS, digits_evaluator
from workbench.evaluation.digits_classifier import (
    ClassifierRecipe,
    DigitAlignment,
    DigitsClassifier,
    load_or_train,
)
from workbench.evaluation.evaluator import Evaluator, Sampler, Scores
from workbench.evaluation.features import FeatureNetwork, PromptScorer
from workbench.evaluation.frechet import FeatureStatistics, FeatureSums, frechet_distance
from workbench.evaluation.grids import image_grid
from workbench.evaluation.metrics import FrechetMetric, Metric, PromptMetric
from workbench.evaluation.prompts import apportion, prompt_mix

__all__ = [
    "DIGITS_METRICS",
    "ClassifierRecipe",
    "DigitAlignment",
    "DigitsClassifier",
    "Evaluator",
    "FeatureNetwork",
    "FeatureStatistics",
    "FeatureSums",
    "FrechetMetric",
    "Metric",
    "PromptMetric",
    "PromptScorer",
    "Sampler",
    "Scores",
    "apportion",
    "digits_evaluator",
    "frechet_distance",
    "image_grid",
    "load_or_train",
    "prompt_mix",
]
