"""The evaluation protocol of the embedded data: all real digits against prompted samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from workbench.errors import unknown_name
from workbench.evaluation.digits_classifier import (
    DigitAlignment,
    DigitsClassifier,
    load_or_train,
)
from workbench.evaluation.evaluator import Evaluator
from workbench.evaluation.frechet import FeatureStatistics
from workbench.evaluation.metrics import FrechetMetric, Metric, PromptMetric
from workbench.evaluation.prompts import prompt_mix


def _fid(classifier: DigitsClassifier) -> Metric:
    from workbench.teachers.digits import load_digits_images

    images, _ = load_digits_images()
    reference = FeatureStatistics.from_features(classifier.features(images))
    return FrechetMetric(classifier, reference)


def _alignment(classifier: DigitsClassifier) -> Metric:
    return PromptMetric(DigitAlignment(classifier))


DIGITS_METRICS: Mapping[str, Callable[[DigitsClassifier], Metric]] = {
    "fid": _fid,
    "alignment": _alignment,
}


def digits_evaluator(
    cache_dir: Path,
    samples: int = 2000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] = tuple(DIGITS_METRICS),
) -> Evaluator:
    """Frechet distance to all 1797 real digits, and prompt alignment.

    The prompts ask for the ten digits in the real data's shares, in every wording.

    Args:
        cache_dir: where the classifier lives; it is trained there when absent (a few seconds).
        samples: images per score.
        seed: of the prompts' order and of the evaluation noise.
        batch_size: images drawn at once; no part of the protocol.
        metrics: names out of ``DIGITS_METRICS``.

    Raises:
        RequestError: an unknown metric, or fewer than two samples.
    """
    from workbench.teachers.digits import class_counts, prompts_of

    for name in metrics:
        if name not in DIGITS_METRICS:
            raise unknown_name("metric", name, DIGITS_METRICS)
    counts = class_counts()
    prompts = prompt_mix({label: prompts_of(label) for label in counts}, counts, samples, seed)
    classifier = load_or_train(cache_dir)
    return Evaluator(
        metrics=tuple(DIGITS_METRICS[name](classifier) for name in metrics),
        prompts=prompts,
        seed=seed,
        batch_size=batch_size,
    )
