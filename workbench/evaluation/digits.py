"""The evaluation protocol of the embedded data: all real digits against prompted samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.errors import RequestError
from workbench.evaluation.catalog import Observers, make_metrics
from workbench.evaluation.evaluator import Evaluator
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.references import DIGITS, DigitsReference, Reference
from workbench.teachers.digits import prompt_label

DIGITS_METRICS = ("fid", "alignment")
"""What is measured during a run."""


def default_metrics(reference: Reference, prompts: Sequence[str]) -> Sequence[str]:
    """What is measured unless told: alignment only where every prompt asks for a digit."""
    return DIGITS_METRICS if reference.name == DIGITS and _ask_for_digits(prompts) else ("fid",)


def _ask_for_digits(prompts: Sequence[str]) -> bool:
    try:
        for prompt in dict.fromkeys(prompts):
            prompt_label(prompt)
    except RequestError:
        return False
    return True


def digits_evaluator(
    cache_dir: Path,
    samples: int = 2000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] = DIGITS_METRICS,
) -> Evaluator:
    """Frechet distance to all 1797 real digits, and prompt alignment.

    The prompts ask for the ten digits in the real data's shares, in every wording.

    Args:
        cache_dir: where the classifier lives; it is trained there when absent (a few seconds).
        samples: images per score.
        seed: of the prompts' order and of the evaluation noise.
        batch_size: images drawn at once; no part of the protocol.
        metrics: names out of ``METRICS``.

    Raises:
        RequestError: an unknown metric, or too few samples for one.
    """
    reference = DigitsReference()
    prompts = reference.prompts(samples, seed)
    weights = WeightFiles(cache_dir.parent / "weights")
    observers = Observers(cache_dir, weights, torch.device("cpu"))
    return Evaluator(make_metrics(metrics, reference, observers), prompts, seed, batch_size)
