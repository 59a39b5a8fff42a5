"""Scores as functions of the mean and covariance of what is observed on each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from workbench.evaluation.features import FeatureNetwork, PromptScorer
from workbench.evaluation.frechet import FeatureStatistics, frechet_distance


class Metric(Protocol):
    """One score. Observations of shards are summed, then scored once, so any sharding is the same.

    ``ingredients`` names by hash everything besides the samples that decides the score.
    """

    @property
    def name(self) -> str: ...

    @property
    def ingredients(self) -> Mapping[str, str]: ...

    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] and their prompts to rows of observations (B, D)."""
        ...

    def score(self, statistics: FeatureStatistics) -> float:
        """The score from the observations' mean (D,) and covariance (D, D)."""
        ...


@dataclass(frozen=True)
class FrechetMetric:
    """Frechet distance of features to a reference (FID, Heusel et al. 2017); lower is better."""

    network: FeatureNetwork
    reference: FeatureStatistics
    name: str = "fid"

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {
            "features": f"{self.network.name}/{self.network.fingerprint}",
            "reference": self.reference.fingerprint,
        }

    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.network.features(images)

    def score(self, statistics: FeatureStatistics) -> float:
        return frechet_distance(statistics, self.reference)


@dataclass(frozen=True)
class PromptMetric:
    """Mean of a per-image judgement of image against prompt; higher is better."""

    scorer: PromptScorer

    @property
    def name(self) -> str:
        return self.scorer.name

    @property
    def ingredients(self) -> Mapping[str, str]:
        return {"scorer": f"{self.scorer.name}/{self.scorer.fingerprint}"}

    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.scorer.scores(images, prompts)[:, None]

    def score(self, statistics: FeatureStatistics) -> float:
        return float(statistics.mean[0])
