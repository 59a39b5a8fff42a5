"""What turns images into numbers that scores are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class FeatureNetwork(Protocol):
    """Images to features, for distances between distributions.

    ``name`` is for people, ``fingerprint`` changes with anything that changes a feature
    (weights, resizing), ``dimension`` is D.
    """

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on any device to features (B, D), without gradient."""
        ...


class PromptScorer(Protocol):
    """Judges each image by the prompt it was made from: prompt alignment, CLIP score, a reward."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] and their B prompts to scores (B,), higher is better."""
        ...
