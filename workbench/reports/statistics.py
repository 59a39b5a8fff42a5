"""Means and differences over runs, with intervals that cover training and evaluation.

A score varies with the seed of the training and with the evaluation seed, the noise that its
samples are drawn from. Both are random effects:

    score[s, e] = mean + training[s] + evaluation[e] + both[s, e]

Where every run draws noise of its own (the default of ``evaluation.seed``), runs are independent
repetitions of the whole and Student's t is exact. Where all runs were scored at the same
evaluation seeds, the two are crossed, and the variance of the mean is that of the two-way
random-effects model, (MS_training + MS_evaluation - MS_both) / (n m). Where all share a single
evaluation seed, how much that seed adds cannot be known from them: there is no interval.

Differences of two variants are taken by training seed, for runs of one seed see the same streams
of noise, in training and in evaluation: what moves both alike cancels, what moves them oppositely
counts twice, as it must.

scipy.special alone is imported: scipy.stats takes a second to load, for the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import NamedTuple

CONFIDENCE = 0.95

Table = Mapping[int, Mapping[int, float]]
"""Training seed -> evaluation seed -> score."""

ONE_SEED = "one seed"
ONE_NOISE = "one evaluation seed"
SOME_NOISE = "evaluation seeds partly shared"
NO_PAIRS = "no two training seeds in common, and no independent noise"
NO_SPREAD = "no spread between seeds"
DIVERGED = "a seed diverged"


class Observation(NamedTuple):
    """One score of one run."""

    training_seed: int
    evaluation_seed: int
    value: float


class Error(NamedTuple):
    """How far a mean may be off: its variance and degrees of freedom, or why nothing is known."""

    variance: float | None
    freedom: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Estimate:
    """A mean over runs; ``half`` is the half width of its interval, None where there is none.

    Attributes:
        values: of each training seed, the mean over its evaluation seeds.
        observations: all scores, where training and evaluation seeds are known.
        reason: why there is no interval.
        training_sd: standard deviation over training seeds of a run's expected score; at one
            evaluation seed, of the scores at that one.
        evaluation_sd: standard deviation over evaluation seeds of one run's score; None where no
            run was scored at several.
    """

    mean: float
    half: float | None
    values: tuple[float, ...]
    observations: tuple[Observation, ...] = ()
    reason: str | None = None
    training_sd: float | None = None
    evaluation_sd: float | None = None

    @property
    def n(self) -> int:
        """Training seeds."""
        return len(self.values)

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)


@dataclass(frozen=True)
class Difference:
    """A difference of two means; ``half`` and ``p`` are None without an interval.

    Attributes:
        p: two-sided probability of so large a difference where there is none; not corrected.
        reason: why there is no interval.
        seeds: training seeds that were compared pair by pair; empty for groups without any in
            common.
    """

    mean: float
    half: float | None
    freedom: float | None
    p: float | None = None
    reason: str | None = None
    seeds: tuple[int, ...] = ()

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent values, with Student's interval, mean +- t(n - 1) s / sqrt(n).

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a mean needs values")
    mean, error = fmean(values), _independent(values)
    half = _half(error, confidence)
    return Estimate(mean, half, tuple(values), reason=error.reason)


def estimate_scores(
    observations: Iterable[Observation], confidence: float = CONFIDENCE
) -> Estimate:
    """Mean over training seeds, each with its evaluation seeds, and its interval.

    Raises:
        ValueError: no observations, or one training seed twice at one evaluation seed.
    """
    found = tuple(observations)
    table = as_table(found)
    values = [fmean(row.values()) for row in table.values()]
    error = _error(table)
    training, evaluation = _spreads(table)
    return Estimate(
        fmean(values),
        _half(error, confidence),
        tuple(values),
        found,
        error.reason,
        training,
        evaluation,
    )


def difference(
    values: Iterable[Observation],
    reference: Iterable[Observation],
    confidence: float = CONFIDENCE,
) -> Difference:
    """mean(values) - mean(reference), by training seed where two or more are in common.

    With training seeds in common the scores of each pair are subtracted at the evaluation seeds
    that they share, else their means are; the differences have one mean and its error, as
    :func:`estimate_scores`. Without any in common the groups are independent: Welch's interval with
    Satterthwaite's degrees of freedom, where no noise is shared.

    Raises:
        ValueError: no observations on a side.
    """
    ours, theirs = as_table(tuple(values)), as_table(tuple(reference))
    common = tuple(seed for seed in ours if seed in theirs)
    if len(common) >= 2:
        pairs, error = _pairs({s: ours[s] for s in common}, {s: theirs[s] for s in common})
        mean = fmean(fmean(row.values()) for row in pairs.values())
        return _tested(mean, error, confidence, common)
    mean = _mean(ours) - _mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Difference(mean, None, None, reason=ONE_SEED)
    if common or not _nested({**ours, **{-1 - seed: row for seed, row in theirs.items()}}):
        return Difference(mean, None, None, reason=NO_PAIRS)
    return _tested(mean, _welch(ours, theirs), confidence, ())


def holm(ps: Sequence[float]) -> list[float]:
    """Probabilities corrected for their number (Holm 1979), in the given order.

    Where each that is at most 0.05 is called a difference, the chance that any of them is none is
    at most 5 %, however they depend on each other.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    found, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        found[place] = least
    return found


def on_common_noise(observations: Sequence[Observation]) -> tuple[Observation, ...]:
    """The scores at the evaluation seeds that all training seeds share, where they share some.

    All of them where they share none: then each has noise of its own, or only some share it.
    """
    found = tuple(observations)
    rows = as_table(found).values()
    common = set.intersection(*(set(row) for row in rows))
    return tuple(each for each in found if each.evaluation_seed in common) if common else found


def as_table(observations: Sequence[Observation]) -> dict[int, dict[int, float]]:
    """Training seed -> evaluation seed -> score.

    Raises:
        ValueError: no observations, or one training seed twice at one evaluation seed.
    """
    if not observations:
        raise ValueError("a mean needs scores")
    table: dict[int, dict[int, float]] = {}
    for seed, noise, value in observations:
        row = table.setdefault(seed, {})
        if noise in row:
            raise ValueError(f"training seed {seed} has two scores at evaluation seed {noise}")
        row[noise] = value
    return table


def _mean(table: Table) -> float:
    return fmean(fmean(row.values()) for row in table.values())


def _pairs(ours: Table, theirs: Table) -> tuple[Table, Error]:
    """Differences by training seed, at the evaluation seeds that both were scored at."""
    shared = {seed: ours[seed].keys() & theirs[seed].keys() for seed in ours}
    if all(shared.values()):
        pairs: Table = {
            seed: {noise: ours[seed][noise] - theirs[seed][noise] for noise in sorted(noises)}
            for seed, noises in shared.items()
        }
        return pairs, _error(pairs)
    means: Table = {
        seed: {seed: fmean(ours[seed].values()) - fmean(theirs[seed].values())} for seed in ours
    }
    if _nested({seed: {**ours[seed], **theirs[seed]} for seed in ours}):
        return means, _error(means)
    return means, Error(None, None, SOME_NOISE)


def _error(table: Table) -> Error:
    """Of the mean over training seeds of the means over their evaluation seeds."""
    if len(table) < 2:
        return Error(None, None, ONE_SEED)
    if _nested(table):
        return _independent([fmean(row.values()) for row in table.values()])
    noises = next(iter(table.values())).keys()
    if any(row.keys() != noises for row in table.values()):
        return Error(None, None, SOME_NOISE)
    if len(noises) < 2:
        return Error(None, None, ONE_NOISE)
    return _crossed([[row[noise] for noise in noises] for row in table.values()])


def _nested(table: Table) -> bool:
    """Whether no two training seeds were scored on the same noise."""
    noises = [noise for row in table.values() for noise in row]
    return len(set(noises)) == len(noises)


def _independent(values: Sequence[float]) -> Error:
    n = len(values)
    return Error(_variance(values) / n, n - 1) if n > 1 else Error(None, None, ONE_SEED)


def _crossed(rows: Sequence[Sequence[float]]) -> Error:
    """Of the mean of a table with training seeds as rows and evaluation seeds as columns.

    What the smaller of the two effects adds is kept from going below 0. The degrees of freedom are
    Satterthwaite's, but at most twice those of the effect with fewer seeds: where that one is large
    and happens to look small, Satterthwaite's are far too many. Simulated coverage of 95 %
    intervals is 93 to 98 % with 3 to 10 seeds each, and above where there is interaction alone.
    Two evaluation seeds leave two degrees of freedom: four and more are better.
    """
    n, m = len(rows), len(rows[0])
    training, evaluation, both = _mean_squares(rows)
    if not math.isfinite(training + evaluation + both):
        return Error(math.nan, math.nan)
    (large, of_large), (small, of_small) = sorted(
        [(training, n - 1), (evaluation, m - 1)], reverse=True
    )
    more = max(small - both, 0.0)
    total = large + more
    if total == 0:
        return Error(0.0, float(n - 1))
    freedom = total**2 / (large**2 / of_large + more**2 / of_small)
    return Error(total / (n * m), min(freedom, 2.0 * min(n - 1, m - 1)))


def _mean_squares(rows: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Of rows, of columns and of their interaction, (n, m) with n, m >= 2."""
    n, m = len(rows), len(rows[0])
    of_rows = [fmean(row) for row in rows]
    of_columns = [fmean(column) for column in zip(*rows, strict=True)]
    mean = fmean(of_rows)
    left = [rows[i][j] - of_rows[i] - of_columns[j] + mean for i in range(n) for j in range(m)]
    interaction = sum(each * each for each in left) / ((n - 1) * (m - 1))
    return m * _variance(of_rows), n * _variance(of_columns), interaction


def _spreads(table: Table) -> tuple[float | None, float | None]:
    """Standard deviations over training seeds and over evaluation seeds."""
    rows = [list(row.values()) for row in table.values()]
    several = [row for row in rows if len(row) > 1]
    freedom = sum(len(row) - 1 for row in several)
    within = sum((len(row) - 1) * _variance(row) for row in several) / freedom if freedom else None
    evaluation = None if within is None else math.sqrt(within)
    if len(rows) < 2:
        return None, evaluation
    if within is None:
        return (None if _nested(table) else _deviation([row[0] for row in rows])), None
    noises = next(iter(table.values())).keys()
    crossed = not _nested(table)
    if crossed and any(row.keys() != noises for row in table.values()):
        return None, evaluation
    noise = _mean_squares(rows)[2] if crossed else within
    of_means = _variance([fmean(row) for row in rows])
    left = of_means - noise * fmean(1 / len(row) for row in rows)
    return math.sqrt(max(left, 0.0)), evaluation


def _welch(ours: Table, theirs: Table) -> Error:
    sides = [[fmean(row.values()) for row in table.values()] for table in (ours, theirs)]
    parts = [(_variance(side) / len(side), len(side) - 1) for side in sides]
    total = sum(part for part, _ in parts)
    if total == 0:
        return Error(0.0, float(sum(freedom for _, freedom in parts)))
    return Error(total, total**2 / sum(part**2 / freedom for part, freedom in parts))


def _tested(mean: float, error: Error, confidence: float, seeds: tuple[int, ...]) -> Difference:
    half = _half(error, confidence)
    if half is None or error.variance is None or error.freedom is None:
        return Difference(mean, None, error.freedom, None, error.reason, seeds)
    if math.isnan(half):
        return Difference(mean, None, None, None, DIVERGED, seeds)
    if mean != 0 and half <= 1e-9 * abs(
        mean
    ):  # equal to rounding: a few coarse values, and no certainty
        return Difference(mean, None, None, None, NO_SPREAD, seeds)
    p = 1.0 if error.variance == 0 else _p(mean, error.variance, error.freedom)
    return Difference(mean, half, error.freedom, p, None, seeds)


def _half(error: Error, confidence: float) -> float | None:
    """NaN where a value is not finite."""
    if error.variance is None or error.freedom is None:
        return None
    if not math.isfinite(error.variance):
        return math.nan
    from scipy.special import stdtrit

    return float(stdtrit(error.freedom, 0.5 + confidence / 2)) * math.sqrt(error.variance)


def _p(mean: float, variance_: float, freedom: float) -> float:
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(mean) / math.sqrt(variance_)))


def _deviation(values: Sequence[float]) -> float:
    return math.sqrt(_variance(values))


def _variance(values: Sequence[float]) -> float:
    return variance(values) if all(math.isfinite(v) for v in values) else math.nan
