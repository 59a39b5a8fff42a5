"""Scores of samples whose true distribution is known: a mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from workbench.errors import unknown_name
from workbench.evaluation.design import Array, Design
from workbench.evaluation.evaluator import Evaluator
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.feature_table import Rows
from workbench.evaluation.intervals import interval_of
from workbench.evaluation.metrics import MeanMetric, Metric
from workbench.evaluation.sample_loop import first_not_finite
from workbench.evaluation.sliced import (
    PROJECTIONS,
    SlicedWassersteinMetric,
    directions,
    sliced_wasserstein,
)
from workbench.flow.noise import NoiseSource
from workbench.hashing import fingerprint
from workbench.teachers.mixture import Mixture

OUTLYING = math.exp(-8)
"""Share of a mode's samples that are too far from it to count as its own: 4 std in the plane."""
FLOOR_PAIRS = 20
_DIRECTIONS = 64
_PARTS = 4  # of a Gaussian's axes
_IQR_OF_NORMAL = 1.3489795
_REFERENCE_SEED = 2**32
"""Of the truth's samples, apart from any seed of evaluation."""

Label = Callable[[Sequence[str]], Tensor]
"""Prompts -> the modes that they ask for, int64 (B,)."""


@dataclass(frozen=True)
class ModeStatistics:
    """What samples look like mode by mode; each belongs to the nearest one.

    Attributes:
        shares: of all samples (K,).
        outliers: share of samples that no mode counts as its own (:data:`OUTLYING`).
        offsets: mean minus true mean, in true std (K, D), of a mode's samples but for outliers.
        covariances: of the same samples (K, D, D); zero where there are fewer than two.
        cores: their interquartile range as a normal distribution's std, in the direction where it
            is least and where it is most (K, 2). A few far samples widen a std, not this.
    """

    shares: Array
    outliers: float
    offsets: Array
    covariances: Array
    cores: Array

    @property
    def stds(self) -> Array:
        """Root of the mean variance over directions, of each mode (K,)."""
        dimension = self.covariances.shape[1]
        variance = np.trace(self.covariances, axis1=1, axis2=2) / dimension
        roots: Array = np.sqrt(variance)
        return roots


def mode_statistics(rows: Rows | Array, mixture: Mixture) -> ModeStatistics:
    """Shares, means and covariances of samples (N, D) by mode."""
    from scipy.stats import chi

    points = np.asarray(rows, dtype=np.float64)
    label, distance = (x.numpy() for x in mixture.nearest(torch.from_numpy(points)))
    inside = distance <= chi.isf(OUTLYING, mixture.dimension)
    shares = np.bincount(label, minlength=mixture.modes) / len(points)
    offsets = np.zeros((mixture.modes, mixture.dimension))
    covariances = np.zeros((mixture.modes, mixture.dimension, mixture.dimension))
    cores = np.zeros((mixture.modes, 2))
    axes = directions(_DIRECTIONS, mixture.dimension)
    for mode, (mean, std) in enumerate(
        zip(mixture.means.numpy(), mixture.stds.numpy(), strict=True)
    ):
        own = points[inside & (label == mode)]
        if len(own):
            offsets[mode] = (own.mean(axis=0) - mean) / std
        if len(own) > 1:
            covariances[mode] = np.cov(own, rowvar=False)
            low, high = np.percentile(own @ axes.T, [25, 75], axis=0)
            cores[mode] = np.array([(high - low).min(), (high - low).max()]) / _IQR_OF_NORMAL
    return ModeStatistics(shares, float(1 - inside.mean()), offsets, covariances, cores)


MODE_SCORES = (
    "share_tv",
    "mode_std",
    "mode_std_min",
    "mode_core_least",
    "mode_core_most",
    "mode_cov_error",
    "mode_offset",
    "outliers",
)
"""What samples of a mixture of several Gaussians are scored by."""


def mode_scores(rows: Rows | Array, mixture: Mixture) -> dict[str, float]:
    """Each of :data:`MODE_SCORES` of samples (N, D), in their order.

    Total variation of shares; std of modes, mean and least of them; std of cores
    (:attr:`ModeStatistics.cores`) where they are thinnest and widest; Frobenius norm of the error
    of covariances relative to the true one, mean over modes; distance of means from the true ones
    in std, mean over modes that have samples; share of samples of no mode.
    """
    seen = mode_statistics(rows, mixture)
    true = torch.diag_embed(mixture.stds.square()).numpy()
    errors = np.linalg.norm(seen.covariances - true, axis=(1, 2))
    scores = (
        np.abs(seen.shares - mixture.shares.numpy()).sum() / 2,
        seen.stds.mean(),
        seen.stds.min(),
        seen.cores[:, 0].mean(),
        seen.cores[:, 1].mean(),
        (errors / np.linalg.norm(true, axis=(1, 2))).mean(),
        np.linalg.norm(seen.offsets[seen.shares > 0], axis=1).mean(),
        seen.outliers,
    )
    return {name: float(score) for name, score in zip(MODE_SCORES, scores, strict=True)}


AXIS_SCORES = ("gaussian_w2", *(f"axis_variance_{part + 1}" for part in range(_PARTS)))
"""What samples of a single Gaussian are scored by."""


def axis_scores(rows: Rows | Array, mixture: Mixture) -> dict[str, float]:
    """Each of :data:`AXIS_SCORES` of samples (N, D).

    The Wasserstein distance of the Gaussian with their mean and covariance S to the truth's is
    W_2^2 = |m - mu|^2 + Tr(S + C - 2 (C^(1/2) S C^(1/2))^(1/2)). Then their variance along an axis
    as a ratio to the truth's, mean over each quarter of the axes, from the largest to the smallest.
    """
    points, std = np.asarray(rows, dtype=np.float64), mixture.stds[0].numpy()
    away = points.mean(axis=0) - mixture.means[0].numpy()
    covariance = np.atleast_2d(np.cov(points, rowvar=False))
    both = np.linalg.eigvalsh(std[:, None] * covariance * std).clip(0)
    square = away @ away + np.trace(covariance) + std @ std - 2 * np.sqrt(both).sum()
    ratios = (np.diag(covariance) / std**2)[np.argsort(-std, kind="stable")]
    parts = [float(part.mean()) for part in np.array_split(ratios, _PARTS)]
    return dict(zip(AXIS_SCORES, (math.sqrt(max(0.0, square)), *parts), strict=True))


class Own(NamedTuple):
    """The scores that a truth has besides the sliced distance, by their names."""

    names: tuple[str, ...]
    of: Callable[[Rows | Array, Mixture], dict[str, float]]


def own_scores(mixture: Mixture) -> Own:
    """A Gaussian is judged axis by axis, several of them mode by mode."""
    if mixture.modes == 1:
        return Own(AXIS_SCORES, axis_scores)
    return Own(MODE_SCORES, mode_scores)


@dataclass(frozen=True)
class OwnMetric:
    """One of :func:`own_scores`. Those of spread are best at the truth's, not at their least."""

    extractor: FeatureExtractor
    mixture: Mixture
    name: str

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {"points": self.extractor.key, "mixture": mixture_hash(self.mixture)}

    def compute(self, rows: Rows) -> float:
        return own_scores(self.mixture).of(rows, self.mixture)[self.name]

    def error(self, rows: Rows, design: Design) -> float:
        return design.error_by_halves(
            lambda picks: np.array([self.compute(rows[pick]) for pick in picks])
        )


class Points(FeatureExtractor):
    """Sees samples as they are: one row a sample."""

    name = "points"
    fingerprint = "latent"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.flatten(1).float()


class AskedMode(FeatureExtractor):
    """1 for a sample whose nearest mode is the one that its prompt asks for, else 0."""

    name = "asked-mode"
    dimension = 1

    def __init__(self, mixture: Mixture, label: Label) -> None:
        self._mixture, self._label = mixture, label
        self.fingerprint = mixture_hash(mixture)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        self._label(prompts)

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        nearest, _ = self._mixture.nearest(images.flatten(1).cpu())
        return (nearest == self._label(prompts)).float()[:, None]


def truth_evaluator(
    mixture: Mixture,
    prompts: Sequence[str],
    names: Sequence[str] | None = None,
    label: Label | None = None,
    batch_size: int = 2500,
) -> Evaluator | None:
    """Distance of samples to as many of the truth, and how modes or axes differ from the truth's.

    Args:
        prompts: one for each sample, in the mixture's shares; empty ones for no prompts.
        names: of the metrics, the primary one first; all that there are unless told. None of them:
            there is no evaluator.
        label: where prompts ask for modes.

    Raises:
        RequestError: a metric that points do not have.
    """
    points = Points(mixture.dimension)
    makers: dict[str, Callable[[str], Metric]] = {
        "sliced_w2": lambda _: SlicedWassersteinMetric(points, truth(mixture, len(prompts))),
        **dict.fromkeys(own_scores(mixture).names, lambda name: OwnMetric(points, mixture, name)),
    }
    if label is not None:
        extractor = AskedMode(mixture, label)
        makers["alignment"] = lambda name: MeanMetric(extractor, name)
    wanted = list(makers) if names is None else list(names)
    for name in wanted:
        if name not in makers:
            raise unknown_name("metric of points whose truth is known", name, makers)
    if not wanted:
        return None
    metrics = [makers[name](name) for name in wanted]
    return Evaluator(metrics, tuple(prompts), batch_size=batch_size, check=check_points)


def check_points(samples: Tensor, prompts: Sequence[str], start: int) -> tuple[int, str] | None:
    """The first sample that cannot be scored, and why: whether points are finite."""
    place = first_not_finite(samples)
    if place is None:
        return None
    return start + place, f"Sample {start + place} is not finite: no score."


def truth(mixture: Mixture, samples: int, stream: str = "truth") -> Rows:
    """Samples of the mixture, the same at each call (N, D)."""
    rows: Rows = mixture.sample(NoiseSource(_REFERENCE_SEED), stream, 0, samples).numpy()
    return rows


def floor(mixture: Mixture, samples: int, pairs: int = FLOOR_PAIRS) -> dict[str, Any]:
    """What the truth itself scores with so many samples: nothing can be expected below.

    Scores of fresh samples, each pair of its own: mean, and where one lies with 95 %.
    """
    found: dict[str, list[float]] = {"sliced_w2": []}
    for pair in range(pairs):
        one, other = (truth(mixture, samples, f"floor/{side}/{pair}") for side in ("a", "b"))
        found["sliced_w2"].append(sliced_wasserstein(one, other, PROJECTIONS))
        for name, value in own_scores(mixture).of(one, mixture).items():
            found.setdefault(name, []).append(value)
    return {name: interval_of(np.array(values)) for name, values in found.items()}


def mixture_hash(mixture: Mixture) -> str:
    """Short hash of a mixture's parameters."""
    std = torch.as_tensor(mixture.std, dtype=torch.float64).tolist()
    return fingerprint([mixture.means.tolist(), std, mixture.shares.tolist()])
