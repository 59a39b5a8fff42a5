"""Which differences between groups of runs are more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from workbench.errors import unknown_name
from workbench.metrics import Goal, MetricInfo
from workbench.reports.groups import Group
from workbench.reports.statistics import (
    ONE_NOISE,
    Difference,
    Estimate,
    Observation,
    difference,
    estimate_scores,
    holm,
)

_LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """A group against another, at equal kimg.

    ``difference`` is of the metric's values; near a target, of their distances from it
    (:meth:`MetricInfo.badness`), as two values on either side of it may be equally good.

    Attributes:
        p: probability of so large a difference where there is none, corrected for the ``asked``
            differences (Holm); None without an interval.
    """

    label: str
    reference: str
    difference: Difference
    info: MetricInfo
    p: float | None
    asked: int

    @property
    def told_apart(self) -> bool | None:
        """Whether there is a difference, by the corrected probability; None without one."""
        return None if self.p is None else self.p <= _LEVEL

    @property
    def is_better(self) -> bool:
        return (self.difference.mean < 0) == (self.info.goal is not Goal.HIGHER)

    @property
    def words(self) -> str:
        if self.told_apart is None:
            return f"{self.difference.reason or 'no interval'}: no verdict"
        if not self.told_apart:
            return "not told apart"
        if not self.info.ranks:
            return "told apart"
        return "better" if self.is_better else "worse"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "group": self.label,
            "against": self.reference,
            "difference": self.difference.mean,
            "interval": self.difference.interval,
            "p": self.difference.p,
            "p_holm": self.p,
            "asked": self.asked,
            "told_apart": self.told_apart,
            "verdict": self.words,
        }


def rank(found: Estimate | None, info: MetricInfo) -> tuple[bool, float]:
    """Sorts groups best first; those without a value last, all of them equal if nothing ranks.

    Near a target every score counts by its own distance: one above and one below are not on it.
    """
    if found is None or math.isnan(found.mean):
        return True, 0.0
    if not info.ranks:
        return False, 0.0
    judged = _judged(found, info)
    mean = estimate_scores(judged).mean
    return False, mean if info.goal is Goal.NEAR else info.badness(mean)


def judge(
    measured: Sequence[tuple[Group, Estimate]], info: MetricInfo, against: str | None = None
) -> tuple[Verdict, ...]:
    """Every other group against one, corrected for all differences that this asks.

    That one is named, or the best that several seeds vouch for. As the data choose the best, any
    two groups might have been the pair: then all pairs count as asked, else only those with it.

    Args:
        measured: best first.

    Raises:
        RequestError: no group of that name.
    """
    if against is not None and against not in [group.label for group, _ in measured]:
        raise unknown_name("variant to compare with", against, [g.label for g, _ in measured])
    reference = next(
        (p for p in measured if (p[0].label == against if against else p[1].n > 1)),
        next(iter(measured), None),
    )
    if reference is None:
        return ()
    scores = {group.label: _judged(own, info) for group, own in measured}
    label = reference[0].label
    others = [name for name in scores if name != label]
    pairs = [(name, label) for name in others]
    if against is None:
        pairs += list(combinations(others, 2))
    found = {pair: difference(scores[pair[0]], scores[pair[1]]) for pair in pairs}
    tested = {pair: each.p for pair, each in found.items() if each.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(
        Verdict(name, label, found[name, label], info, corrected.get((name, label)), len(tested))
        for name in others
    )


def _judged(found: Estimate, info: MetricInfo) -> Sequence[Observation]:
    if info.goal is not Goal.NEAR or not info.ranks:
        return found.observations
    return [each._replace(value=info.badness(each.value)) for each in found.observations]


def caution(verdicts: Sequence[Verdict], *, chosen: bool = True) -> list[str]:
    """What a reader of the verdicts has to know."""
    notes = []
    asked = verdicts[0].asked if verdicts else 0
    if asked > 1:
        why = "all pairs, for the best was chosen by the same data" if chosen else "asked here"
        notes.append(
            f"Verdicts are corrected for {asked} differences ({why}; Holm). Each interval is one "
            "of 95 % by itself."
        )
    if any(verdict.difference.reason == ONE_NOISE for verdict in verdicts):
        notes.append(
            "All of these runs drew the same evaluation noise: how much it adds cannot be known "
            "from them, so there are no intervals and no verdicts. Score them at several: "
            "workbench evaluate RUN --seed 0,1,2,3, then compare with --reference and --steps."
        )
    return notes


def paired_notes(verdicts: Sequence[Verdict], groups: Sequence[Group]) -> list[str]:
    """Which runs a difference leaves out, as its pair has no run of that training seed."""
    seeds = {group.label: set(group.seeds) for group in groups}
    notes = []
    for verdict in verdicts:
        paired = set(verdict.difference.seeds)
        if paired and (seeds[verdict.label] | seeds[verdict.reference]) - paired:
            told = ", ".join(map(str, sorted(paired)))
            notes.append(
                f"{verdict.label} against {verdict.reference}: of the training seeds in common, "
                f"{told}; the means above are of all."
            )
    return notes
