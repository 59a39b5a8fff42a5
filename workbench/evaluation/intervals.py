"""How sure a score is: intervals by resampling, the bias of a Frechet distance, FID at infinite N.

A resample here is a random half of the samples, without repeats. The spread of a score over such
halves is, to first order, its standard error over fresh samples (the delete-half jackknife, Shao &
Wu 1989). The bootstrap's resamples with repeats hold only 63 % distinct images: distances to
neighbours become 0, and a Frechet distance grows by a bias that can leave the score itself outside
its interval. Whatever bias halves still have is taken out: quantiles are placed around the score.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RequestError
from workbench.evaluation.metrics import FrechetMetric, Metric, Picks
from workbench.evaluation.observations import Rows, chosen
from workbench.metrics import metric_info

LEVEL = 0.95
_PARTS = (1, 2, 3, 4)
"""Into how many equal parts the samples are split for FID at infinite N."""


@dataclass(frozen=True)
class Interval:
    """Holds the score's expectation over samples of this number with confidence ``level``.

    The score of other samples varies around that expectation too, and so lies outside more often.
    """

    low: float
    high: float
    level: float = LEVEL

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Extrapolation:
    """A Frechet distance without its bias in N.

    Attributes:
        value: at infinite N.
        slope: the bias at N samples is slope / N.
        points: (n, mean distance over the parts of n samples) that the line goes through.
    """

    value: float
    interval: Interval
    slope: float
    points: tuple[tuple[int, float], ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def halves(samples: int, count: int, random: np.random.Generator) -> Picks:
    """``count`` random subsets of half of the samples, (count, samples)."""
    picks = np.zeros((count, samples), dtype=np.bool_)
    for pick in picks:
        pick[random.permutation(samples)[: samples // 2]] = True
    return picks


def check_interval(metric: Metric, samples: int, resamples: int) -> None:
    """Whether an interval can be had.

    Raises:
        RequestError: half of the samples are too few for the metric, or there are no resamples.
    """
    if resamples < 2:
        raise RequestError(f"An interval needs at least 2 resamples, not {resamples}.")
    minimum = metric_info(metric.name).minimum
    fewest = 2 * minimum.count
    if samples < fewest:
        raise RequestError(
            f"An interval of {metric.name} needs at least {fewest} samples, not {samples}: it is "
            f"computed on halves, and {minimum.why}."
        )


def check_extrapolation(metric: FrechetMetric, samples: int, resamples: int) -> None:
    """Whether FID at infinite N can be had.

    Raises:
        RequestError: too few samples: in parts of fewer samples than features the bias is no
            longer proportional to 1/N. Or no resamples for its interval.
    """
    if resamples < 2:
        raise RequestError(
            f"{metric.name} at infinite N needs at least 2 resamples for its interval, not "
            f"{resamples}: --bootstrap 200."
        )
    fewest = _PARTS[-1] * (metric.observer.dimension + 1)
    if samples < fewest:
        raise RequestError(
            f"{metric.name} at infinite N needs at least {fewest} samples, not {samples}: "
            f"{_PARTS[-1]} parts, each of more than its {metric.observer.dimension} features."
        )


def interval(metric: Metric, rows: Rows, score: float, resamples: int, seed: int) -> Interval:
    """The score's percentile interval over resamples; equal seed, equal interval.

    Raises:
        RequestError: as :func:`check_interval`.
    """
    check_interval(metric, len(rows), resamples)
    picks = halves(len(rows), resamples, np.random.default_rng(seed))
    low, high = _spread(metric, rows, picks)
    return Interval(score + low, score + high)


def frechet_bias(metric: FrechetMetric, rows: Rows, score: float, seed: int) -> float | None:
    """About how much of the score is there only because N is finite.

    The bias is proportional to 1/N, so halving the samples adds it once more. None where it is not:
    a half of no more rows than features has no covariance of full rank.
    """
    if len(rows) // 2 <= metric.observer.dimension:
        return None
    order = np.random.default_rng(seed).permutation(len(rows))
    return _mean_over_parts(metric, rows, order, 2) - score


def extrapolate(metric: FrechetMetric, rows: Rows, resamples: int, seed: int) -> Extrapolation:
    """FID at infinite N: a line through FID against 1/N (Chong & Forsyth 2020).

    Each point is the mean over all equal parts of the samples, so that the points share the same
    sampling error, which moves the line but not its slope. The interval adds that error, from
    resampling, to the line's own.

    Raises:
        RequestError: as :func:`check_extrapolation`.
    """
    check_extrapolation(metric, len(rows), resamples)
    from scipy import stats

    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    points = tuple(
        (len(rows) // parts, _mean_over_parts(metric, rows, order, parts)) for parts in _PARTS
    )
    line = stats.linregress([1.0 / size for size, _ in points], [value for _, value in points])
    own = float(stats.t.ppf((1 + LEVEL) / 2, len(points) - 2) * line.intercept_stderr)
    low, high = _spread(metric, rows, halves(len(rows), resamples, random))
    value = float(line.intercept)
    ends = Interval(value - float(np.hypot(low, own)), value + float(np.hypot(high, own)))
    return Extrapolation(value, ends, float(line.slope), points)


def _spread(metric: Metric, rows: Rows, picks: Picks) -> tuple[float, float]:
    """Quantiles of the score over resamples, around their mean."""
    values = metric.replicates(rows, picks)
    low, high = np.quantile(values - values.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _mean_over_parts(
    metric: FrechetMetric, rows: Rows, order: NDArray[np.int64], parts: int
) -> float:
    size = len(rows) // parts
    split = (order[part * size : (part + 1) * size] for part in range(parts))
    return float(np.mean([metric.compute(chosen(rows, places)) for places in split]))
