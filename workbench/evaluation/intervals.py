"""How sure a score is: its interval, the bias of a Frechet distance, FID at infinite N.

What would vary, and what would not, is the :class:`Design`'s to say: the noise does; prompts that
repeat do not; prompts that occur once stand for all others. The reference is as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import RequestError
from workbench.evaluation.design import Array, Design, Places
from workbench.evaluation.feature_table import Rows, chosen
from workbench.evaluation.frechet import CentredRows, FeatureStatistics, frechet_distance
from workbench.evaluation.metrics import FrechetMetric, Metric, OfParts
from workbench.metrics import SHARE, metric_info

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
            f"seen by halves, and {minimum.why}."
        )


def check_extrapolation(metric: FrechetMetric, samples: int) -> None:
    """Whether FID at infinite N can be had.

    Raises:
        RequestError: too few samples: in parts of fewer samples than features the bias is no
            longer proportional to 1/N.
    """
    fewest = _PARTS[-1] * (metric.extractor.dimension + 1)
    if samples < fewest:
        raise RequestError(
            f"{metric.name} at infinite N needs at least {fewest} samples, not {samples}: "
            f"{_PARTS[-1]} parts, each of more than its {metric.extractor.dimension} features."
        )


def interval(metric: Metric, rows: Rows, score: float, design: Design) -> Interval:
    """The score's interval: Student's t by its standard error, Wilson's for a share.

    Raises:
        RequestError: as :func:`check_interval`.
    """
    check_interval(metric, len(rows), design.resamples)
    error = metric.error(rows, design)
    if metric_info(metric.name).unit == SHARE:
        count = metric.count(rows) if isinstance(metric, OfParts) else len(rows)
        return wilson(score, error, count)
    reach = _quantile(design.freedom) * error
    return Interval(score - reach, score + reach)


def wilson(share: float, error: float, count: float) -> Interval:
    """Wilson's interval (1927) of as many yes-or-no rows as have the share's standard error.

    Those are ``count`` where the rows are themselves independent and yes or no; more where strata
    or values in between leave them less spread; fewer where more moves a share than its own rows.
    A spread seen in few rows is little known, and none is seen where all agree: z^2 more rows with
    the spread of yes and no are counted in, so that it never ends at 0.
    """
    squared = _quantile() ** 2
    spread = count * share * (1.0 - share)
    ratio = ((count * error) ** 2 + squared) / (spread + squared)
    slack = squared * ratio / count
    middle = (share + slack / 2.0) / (1.0 + slack)
    reach = float(np.sqrt(slack * share * (1.0 - share) + (slack / 2.0) ** 2)) / (1.0 + slack)
    return Interval(middle - reach, middle + reach)


def frechet_bias(metric: FrechetMetric, rows: Rows, score: float, design: Design) -> float | None:
    """About how much of the score is there only because N is finite.

    The bias is proportional to 1/N, so halving the samples adds it once more. None where it is not:
    a half of no more rows than features has no covariance of full rank.
    """
    if len(rows) // 2 <= metric.extractor.dimension:
        return None
    return _mean_over(metric, rows, design.parts(2)) - score


def extrapolate(metric: FrechetMetric, rows: Rows, design: Design) -> Extrapolation:
    """FID at infinite N: a line through FID against 1/N (Chong & Forsyth 2020).

    Each point is the mean over all equal parts of the samples, so that the points share the same
    sampling error, which moves the line but not its slope. The interval adds that error to the
    line's own.

    Raises:
        RequestError: as :func:`check_extrapolation`.
    """
    check_extrapolation(metric, len(rows))
    from scipy import stats

    points = tuple(
        (len(rows) // parts, _mean_over(metric, rows, design.parts(parts))) for parts in _PARTS
    )
    line = stats.linregress([1.0 / size for size, _ in points], [value for _, value in points])
    own = _quantile(len(points) - 2) * float(line.intercept_stderr)
    reach = float(np.hypot(_quantile(design.freedom) * metric.error(rows, design), own))
    value = float(line.intercept)
    ends = Interval(value - reach, value + reach)
    return Extrapolation(value, ends, float(line.slope), points)


def frechet_floor(
    rows: Rows, kinds: Sequence[str], samples: int, splits: int = 20
) -> dict[str, Any]:
    """The Frechet distance of fresh real images to the reference: mean, and where one lies.

    Halves of the reference share no image, so that one is fresh to the other. The distance of two
    sets of one distribution is proportional to 1/N + 1/M, so it is scaled from two halves to
    ``samples`` fresh images and the whole reference. All splits are of one set of images: the
    range holds 95 % of the splits, about where one fresh set lies.

    Args:
        rows: the reference's (M, D).
        kinds: caption or class of each; of those that repeat both sets hold equal shares, as
            samples that are drawn for the reference's captions do.
        splits: random ones into halves.

    Raises:
        RequestError: a half of the reference, or the samples, are no more than the features.
    """
    fewest = rows.shape[1] + 1
    if len(rows) // 2 < fewest or samples < fewest:
        raise RequestError(
            f"With {rows.shape[1]} features a floor needs a reference of at least {2 * fewest} "
            f"images and {fewest} samples, not {len(rows)} and {samples}: with fewer it is not "
            "proportional to 1/N."
        )
    distances = np.empty(splits)
    for split in range(splits):
        one, other = (chosen(rows, half) for half in Design(kinds, seed=split).parts(2))
        reference = FeatureStatistics.from_features(other)
        distances[split] = frechet_distance(CentredRows(one), reference)
    scale = (1 / samples + 1 / len(rows)) / (2 / (len(rows) // 2))
    return interval_of(scale * distances)


def interval_of(values: Array) -> dict[str, Any]:
    """Mean of independent measurements, and where one of them lies with 95 % (2.5 to 97.5 %)."""
    low, high = np.quantile(values, (0.025, 0.975))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def _quantile(freedom: int | None = None) -> float:
    """How many standard errors an interval reaches: Student's t, or the normal distribution's."""
    from scipy import stats

    law = stats.norm if freedom is None else stats.t(freedom)
    return float(law.ppf((1 + LEVEL) / 2))


def _mean_over(metric: FrechetMetric, rows: Rows, parts: list[Places]) -> float:
    return float(np.mean([metric.compute(chosen(rows, places)) for places in parts]))
