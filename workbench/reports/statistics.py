"""Means over seeds, with intervals that say how far to trust them.

scipy.special alone is imported: scipy.stats takes a second to load, for the same quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; ``half`` is the half width of its interval, None for a single seed."""

    mean: float
    half: float | None
    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)


@dataclass(frozen=True)
class Difference:
    """A difference of two means; ``half`` is None where a side has a single seed."""

    mean: float
    half: float | None
    freedom: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the two are told apart; None without an interval."""
        if self.half is None or math.isnan(self.half):
            return None
        return abs(self.mean) > self.half


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean and two-sided Student-t interval, mean +- t(n - 1) s / sqrt(n).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a mean needs values")
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean, None, tuple(values))
    half = _quantile(n - 1, confidence) * math.sqrt(_variance(values) / n)
    return Estimate(mean, half, tuple(values))


def welch(
    values: Sequence[float], reference: Sequence[float], confidence: float = CONFIDENCE
) -> Difference:
    """mean(values) - mean(reference) with Welch's interval (Satterthwaite's degrees of freedom).

    Not paired by seed, although runs of one seed see the same noise: training forgets it soon, and
    a pairing of three seeds has two degrees of freedom (t = 4.30) where this has up to four
    (2.78), so it would need a correlation above about 0.5 to be the narrower one. Where runs of
    one seed do move together, this interval is too wide, never too narrow. It also takes variants
    that were run with different seeds.

    Raises:
        ValueError: no values on a side.
    """
    if not values or not reference:
        raise ValueError("a difference needs values on both sides")
    mean = fmean(values) - fmean(reference)
    if min(len(values), len(reference)) < 2:
        return Difference(mean, None, None)
    parts = [_variance(side) / len(side) for side in (values, reference)]
    total = sum(parts)
    if total == 0:
        return Difference(mean, 0.0, float(len(values) + len(reference) - 2))
    sides = zip(parts, (values, reference), strict=True)
    freedom = total**2 / sum(part**2 / (len(side) - 1) for part, side in sides)
    return Difference(mean, _quantile(freedom, confidence) * math.sqrt(total), freedom)


def _variance(values: Sequence[float]) -> float:
    return variance(values) if all(math.isfinite(v) for v in values) else math.nan


def _quantile(freedom: float, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2))
