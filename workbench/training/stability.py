"""What a run notices of its own instabilities, and what it remembers of them.

Three detectors read what is logged anyway, at no network evaluation of their own:

- Jump of the primary metric (``fid_jump``): the evaluation lies above the best so far by the rule
  of :func:`fid_jumps`.
- Loss blow-up: |loss|, averaged over a logging interval, is ``loss_threshold`` robust standard
  deviations (1.4826 times the median absolute deviation) above its running median over the last
  ``window`` quiet intervals, and at least three times that median. Losses are the metrics whose
  names end in ``_loss``.
- Fake score lagging: it has come less than half of the way from the teacher to the posterior mean
  of the generator's samples, which is its optimum. The way left over the way done is the ratio of
  ``train/score_drag`` to ``train/score_gap`` (see ``workbench.methods.sid``), over 16 intervals.
  It begins high, for the fake score begins as the teacher; so it counts where it is above ``lag``
  and has not halved since the beginning of the window. Then the generator follows a score of
  samples that it no longer makes. Smaller learning rates on both sides cure no lag: it is reported
  and nothing more.

Updates that are not finite are seen where they are skipped. Each stretch of trouble is one event.

After a roll-back the count of images goes on: images that were generated are paid for, curves have
one value at each number of images, and no random number, which is addressed by it, comes twice.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from pydantic import Field

from workbench.metrics import Goal, info_or_distance, title_of
from workbench.settings import FrozenConfig
from workbench.training.events import EventKind, RunEvent

SCORE_GAP = "train/score_gap"
SCORE_DRAG = "train/score_drag"

_LOSS = "_loss"
_ENOUGH = 8
"""Intervals from which a running median is trusted."""

_LEAST_RISE = 3.0
"""A blow-up is at least so many times the median, however quiet the loss had been."""

_LAG_INTERVALS = 16
_LAG = "fake score"

REPORTED_ALONE = frozenset({EventKind.FAKE_SCORE_LAG})
"""Events that no roll-back answers."""

_TO_SIGMA = 1.4826
"""Median absolute deviation -> standard deviation, for normal noise."""


class StabilityConfig(FrozenConfig):
    """When training is unstable, and whether it goes back by itself."""

    rollback: bool = Field(
        False, description="return to the last good checkpoint, with smaller learning rates"
    )
    max_rollbacks: int = Field(3, ge=1, description="then trouble is only reported")
    lr_factor: float = Field(0.5, gt=0, le=1, description="of all learning rates, each time")
    window: int = Field(64, ge=32, description="logging intervals behind the running statistics")
    loss_threshold: float = Field(
        10.0, gt=0, description="robust standard deviations above its median: a loss blows up"
    )
    lag: float = Field(
        1.0, gt=0, description="way left over way done, of the fake score to its optimum: it lags"
    )


@dataclass
class Stability:
    """A run's running statistics, events and roll-backs; plain values, kept in its checkpoints.

    Attributes:
        recent: by metric, its values in the last intervals that were no blow-up.
        alarms: what is in trouble now: a metric, ``fid``, or a phase whose updates are skipped.
        fid: every evaluation that training still stands by, as a distance.
        events: as :class:`RunEvent` has them, oldest first.
        good: images of the last good checkpoint: at it, or after it, a verdict was quiet.
        written: images of the last checkpoint.
        quiet: images at the last quiet verdict.
    """

    recent: dict[str, list[float]] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    fid: list[float] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    rollbacks: int = 0
    good: int | None = None
    written: int | None = None
    quiet: int | None = None

    def observe_losses(
        self, config: StabilityConfig, nimg: int, means: Mapping[str, float]
    ) -> list[RunEvent]:
        """The events in one logging interval's means."""
        found = []
        for name, value in means.items():
            if name.endswith(_LOSS):
                found += self._blow_up(config, nimg, name, abs(value))
            elif name in (SCORE_GAP, SCORE_DRAG):
                self._remember(config, name, value)
        if SCORE_DRAG in means:
            found += self._lag(config, nimg)
        return found

    def observe_score(self, nimg: int, name: str, value: float) -> list[RunEvent]:
        """The event in an evaluation, if it begins a jump; a NaN is as bad as can be.

        The rule is one of distances: a score that improves upwards counts by its reciprocal, one
        that is best near a target by its distance from it.
        """
        self.fid.append(_as_distance(name, value))
        jumps = fid_jumps(self.fid)
        inside = bool(jumps) and not jumps[-1].recovered
        text = f"{title_of(name)} jumped to {value:.4g}"
        if inside and info_or_distance(name).goal is not Goal.NEAR:
            text += f", from {_as_distance(name, jumps[-1].best):.4g} at best"
        text += "."
        return self._alarm("fid", inside, RunEvent.of(EventKind.FID_JUMP, nimg, text, value))

    def observe_skip(self, nimg: int, phase: str, problem: str) -> list[RunEvent]:
        """The event in an update that was skipped, and why; or in one that was not (no problem)."""
        event = RunEvent.of(EventKind.NON_FINITE, nimg, problem, 1.0)
        return self._alarm(phase, bool(problem), event)

    def judge(self, nimg: int) -> None:
        """A verdict: without an alarm, the last checkpoint is a good one. Lagging is none here."""
        if set(self.alarms) <= {_LAG}:
            self.quiet, self.good = nimg, self.written

    def checkpointing(self, nimg: int) -> None:
        """A checkpoint is being written; a quiet verdict on these very weights makes it good."""
        self.written = nimg
        if self.quiet == nimg:
            self.good = nimg

    def rolled_back(self, nimg: int, then: Stability) -> None:
        """The weights are the good checkpoint's again, and so is what is usual: ``then``'s."""
        self.rollbacks += 1
        self.recent, self.fid, self.alarms = then.recent, then.fid, []
        self.quiet = nimg

    def _alarm(self, key: str, on: bool, event: RunEvent) -> list[RunEvent]:
        """The event where its trouble begins; nothing while it lasts."""
        begins = on and key not in self.alarms
        self.alarms = [*(other for other in self.alarms if other != key), *([key] if on else [])]
        return [event] if begins else []

    def _blow_up(
        self, config: StabilityConfig, nimg: int, name: str, value: float
    ) -> list[RunEvent]:
        limit = blow_up_limit(self.recent.get(name, []), config.loss_threshold)
        if value <= limit:
            self._remember(config, name, value)
        text = f"{name} blew up: {value:.4g}, usual up to {limit:.4g}."
        event = RunEvent.of(EventKind.LOSS_BLOW_UP, nimg, text, value)
        return self._alarm(name, value > limit, event)

    def _lag(self, config: StabilityConfig, nimg: int) -> list[RunEvent]:
        drag, gap = self.recent[SCORE_DRAG], self.recent[SCORE_GAP]
        before, lag = (
            sum(drag[part]) / max(sum(gap[part]), sys.float_info.min)
            for part in (slice(_LAG_INTERVALS), slice(-_LAG_INTERVALS, None))
        )
        stays = len(drag) == config.window and lag > before / 2
        text = (
            f"The fake score lags: its way to the generator's samples is {lag:.3g} times what it "
            "has come from the teacher. Try a larger learning rate for it."
        )
        event = RunEvent.of(EventKind.FAKE_SCORE_LAG, nimg, text, lag)
        return self._alarm(_LAG, stays and lag > config.lag, event)

    def _remember(self, config: StabilityConfig, name: str, value: float) -> None:
        self.recent[name] = [*self.recent.get(name, []), value][-config.window :]


def _as_distance(name: str, value: float) -> float:
    """A score as one that falls by factors as it improves; its own inverse where it matters."""
    info = info_or_distance(name)
    if math.isnan(value):
        return math.inf
    if info.goal is Goal.HIGHER:
        return 1 / value if value > 0 else math.inf
    return value if info.goal is Goal.LOWER else 1 + info.badness(value)


def blow_up_limit(recent: Sequence[float], threshold: float) -> float:
    """max(median + threshold 1.4826 MAD, 3 median) of |loss|; infinite below eight values."""
    if len(recent) < _ENOUGH:
        return math.inf
    center = median(recent)
    spread = _TO_SIGMA * median(abs(value - center) for value in recent)
    return max(center + threshold * spread, _LEAST_RISE * center)


LEAST_RISE = 1.25
"""An instability lifts FID at least this much above the best before it."""

NOISES = 6.0
"""And by this many standard deviations of the run's own noise in log FID."""

_ENOUGH_FOR_NOISE = 9
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
    if len(logs) < _ENOUGH_FOR_NOISE:
        return 0.0
    steps = [after - before for before, after in pairwise(logs)]
    bends = [abs(after - before) / 2 for before, after in pairwise(steps)]
    return 1.4826 * median(bends) / math.sqrt(1.5)
