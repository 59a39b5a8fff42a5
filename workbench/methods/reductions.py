"""Means that no split of a batch changes: over each sample first, then over samples."""

from __future__ import annotations

from torch import Tensor


def rms(x: Tensor) -> Tensor:
    """Root mean square of each sample (B, ...), (B,)."""
    return x.square().flatten(1).mean(1).sqrt()
