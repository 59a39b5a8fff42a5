"""Runs as the store tells of them, and what may be asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workbench.metrics import best_of, primary_of, score_of

NEWEST_FIRST = "attributes.start_time DESC"
SYSTEM = "system/"
INTERNAL = "mlflow."

_CONDITION = re.compile(r"\s*(tags|params)\.(?:`([^`]+)`|([\w.]+))\s*=\s*'([^'\\]*)'\s*")
_AND = re.compile(r"\bAND\b", re.IGNORECASE)


@dataclass(frozen=True)
class RunRow:
    """One run as a table shows it. ``metrics`` holds each metric's last value, system ones aside.

    Times are ms since 1970; ``end_time`` is none while the run is going on.
    """

    run_id: str
    name: str
    experiment: str
    experiment_id: str
    status: str
    start_time: int
    end_time: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def last_scores(self) -> dict[str, float]:
        """The evaluation's last values: {"fid": ...} for the metric "eval/fid"."""
        return _named(self.metrics, score_of)

    @property
    def best_scores(self) -> dict[str, float]:
        """The best value of what judges the run: {"fid": ...} for the metric "best/fid"."""
        return _named(self.metrics, best_of)

    @property
    def primary(self) -> str | None:
        """Which score judged the run; None before an evaluation."""
        return primary_of(self.metrics)


@dataclass(frozen=True)
class Question:
    """Which runs: of one experiment or all, filtered and sorted in MLflow's own language."""

    experiment: str | None = None
    limit: int = 50
    where: str = ""
    order_by: str = NEWEST_FIRST

    def conditions(self) -> list[tuple[str, str, str]] | None:
        """The filter as (tags or params, key, value) that must all be equal; None for any other."""
        if not self.where.strip():
            return []
        found = [_CONDITION.fullmatch(part) for part in _AND.split(self.where)]
        if not all(found):
            return None
        return [(m[1], m[2] or m[3], m[4]) for m in found if m is not None]


def ended(status: str, end_time: int | None) -> int | None:
    """The end of a run; a resumed one goes on, whatever its first attempt left behind."""
    return int(end_time) if end_time and status != "RUNNING" else None


def _named(metrics: Mapping[str, float], name_of: Callable[[str], str | None]) -> dict[str, float]:
    return {name: v for key, v in metrics.items() if (name := name_of(key)) is not None}
