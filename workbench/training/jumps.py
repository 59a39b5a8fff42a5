"""When a FID has jumped: the one rule, for curves that are drawn and for runs that go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

LEAST_RISE = 1.25
"""An instability lifts FID at least this much above the best before it."""

NOISES = 6.0
"""And by this many standard deviations of the run's own noise in log FID."""

_ENOUGH = 9
"""Values from which a single jump, which bends the curve in three places, is not in the median."""


class Jump(NamedTuple):
    """A stretch of evaluations above the threshold.

    Attributes:
        peak: place of its highest value.
        best: the best FID before it.
        recovered: whether a later evaluation came back below the threshold.
    """

    peak: int
    best: float
    recovered: bool


def fid_jumps(fid: Sequence[float]) -> list[Jump]:
    """The jumps in a run's FIDs, in order.

    A jump is a stretch of evaluations whose log FID lies above the running minimum by more than
    log 1.25 and, from nine evaluations on, by more than six standard deviations of the run's own
    noise: 1.4826 / sqrt(1.5) times the median of |second difference| / 2 of log FID, which neither
    the descent nor a jump moves much. An infinite FID is always a jump; NaN never is.
    """
    threshold = max(LEAST_RISE, math.exp(min(NOISES * _noise(fid), 700.0)))
    best = math.inf
    found: list[Jump] = []
    inside = False
    for place, value in enumerate(fid):
        above = math.isfinite(best) and best > 0 and value > threshold * best
        if above and inside:
            peak = max(found[-1].peak, place, key=lambda i: fid[i])
            found[-1] = Jump(peak, found[-1].best, False)
        elif above:
            found.append(Jump(place, best, False))
        elif inside:
            found[-1] = found[-1]._replace(recovered=True)
        inside = above
        best = min(best, value)
    return found


def _noise(fid: Sequence[float]) -> float:
    """Standard deviation of log FID about a smooth curve; 0 for too few values to tell."""
    logs = [math.log(value) for value in fid if 0 < value < math.inf]
    if len(logs) < _ENOUGH:
        return 0.0
    steps = [after - before for before, after in pairwise(logs)]
    bends = [abs(after - before) / 2 for before, after in pairwise(steps)]
    return 1.4826 * median(bends) / math.sqrt(1.5)
