"""An evaluation as settings describe it: reference, prompts, metrics, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from workbench.data.prompts import read_prompts
from workbench.errors import RequestError
from workbench.evaluation.catalog import (
    BUNDLED_NETWORKS,
    FEATURE_WEIGHTS,
    FeatureExtractors,
    make_metrics,
)
from workbench.evaluation.evaluator import Evaluator
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.references import Reference, open_reference
from workbench.metrics import OWN_NETWORK, metric_info
from workbench.training.evaluation_config import EvaluationConfig
from workbench.workspace import Workspace


def build_evaluator(
    workspace: Workspace, settings: EvaluationConfig, device: torch.device
) -> Evaluator | None:
    """The protocol of a run's evaluations; None where its settings measure nothing.

    The primary metric comes first. Networks are loaded, on ``device``. Noise, and how
    many samples are drawn at once, are the sampler's business.

    Raises:
        RequestError: as :func:`check_evaluation`, or weights that cannot be read.
    """
    if not settings.metrics:
        return None
    reference = find_reference(workspace, settings)
    prompts = evaluation_prompts(settings, reference)
    extractors = FeatureExtractors(workspace.cache, weight_files(workspace, settings), device)
    first = settings.primary_metric
    names = sorted(settings.metrics, key=lambda name: name != first)
    metrics = make_metrics(names, reference, extractors)
    return Evaluator(metrics, prompts, precision=settings.precision)


def check_evaluation(
    workspace: Workspace, settings: EvaluationConfig, *, download: bool = True
) -> None:
    """Refuse an evaluation that could not be made, before anything is built, loaded or drawn.

    No network is loaded.

    Args:
        download: get weights that are missing, where they may be downloaded.

    Raises:
        RequestError: no such reference, no captions and no prompts, fewer of them than samples,
            or weights that are missing (which file, from where).
    """
    if not settings.metrics:
        return
    reference = find_reference(workspace, settings)
    evaluation_prompts(settings, reference)
    files = weight_files(workspace, settings)
    for name in needed_weights(settings.metrics, reference):
        files.find(name, download=download)
    files.check_all_used()


def prepare_evaluation(workspace: Workspace, settings: EvaluationConfig) -> None:
    """Make once what several processes are about to need: weights, a bundled network.

    Raises:
        RequestError: as :func:`check_evaluation`.
    """
    check_evaluation(workspace, settings)
    reference = find_reference(workspace, settings)
    if settings.metrics and reference is not None and reference.network in BUNDLED_NETWORKS:
        BUNDLED_NETWORKS[reference.network](workspace.cache)


def needed_weights(metrics: Sequence[str], reference: Reference | None) -> list[str]:
    """Names of the published files that these metrics need, each once."""
    needed: list[str] = []
    for name in metrics:
        info = metric_info(name)
        needed += info.weights
        if info.network == OWN_NETWORK and reference is not None:
            needed.append(FEATURE_WEIGHTS.get(reference.network, ""))
    return [name for name in dict.fromkeys(needed) if name]


def weight_files(workspace: Workspace, settings: EvaluationConfig) -> WeightFiles:
    """Where the metrics' networks have their weights."""
    given = {name: Path(path) for name, path in settings.weights.items()}
    return WeightFiles(workspace.root / "weights", given)


def evaluation_prompts(settings: EvaluationConfig, reference: Reference | None) -> tuple[str, ...]:
    """One prompt for each sample: those that are set, else the reference's captions.

    Raises:
        RequestError: there are none, or fewer than samples.
    """
    if settings.prompts is None:
        if reference is None:
            raise RequestError(
                f"{', '.join(settings.metrics)} need prompts to draw samples for, and there is no "
                "reference with captions: set evaluation.prompts to a file of prompts."
            )
        return reference.prompts(settings.samples)
    given = read_prompts(settings.prompts)
    if settings.samples > len(given):
        raise RequestError(
            f"{settings.prompts.source} holds {len(given)} prompts, fewer than the "
            f"{settings.samples} samples of evaluation.samples."
        )
    return given.prompts[: settings.samples]


def find_reference(workspace: Workspace, settings: EvaluationConfig) -> Reference | None:
    """The real images to compare with, if there are any.

    Raises:
        RequestError: unknown or damaged.
    """
    return open_reference(workspace, settings.reference) if settings.reference else None
