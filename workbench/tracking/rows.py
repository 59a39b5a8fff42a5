"""Runs as the store tells of them, and how it is asked to choose among them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workbench.errors import RequestError
from workbench.metrics import best_of, primary_of, score_of
from workbench.tracking.base import INTERNAL, SYSTEM

_CONDITION = re.compile(r"\s*(tags|params)\.(?:`([^`]+)`|([\w.]+))\s*=\s*'([^'\\]*)'\s*")
_AND = re.compile(r"\bAND\b(?=(?:[^']*'[^']*')*[^']*$)", re.IGNORECASE)


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
class Condition:
    """A tag or a parameter that has a value; ``table`` is "tags" or "params"."""

    table: str
    key: str
    value: str


def parse_conditions(where: str) -> list[Condition]:
    """A filter as the conditions that it joins by AND, in MLflow's own language.

    Raises:
        RequestError: anything else of that language.
    """
    found = [_CONDITION.fullmatch(part) for part in _AND.split(where)] if where.strip() else []
    if not all(found):
        raise RequestError(
            f"Cannot filter runs by {where!r}: expected tags.NAME = 'VALUE' or params.NAME = "
            "'VALUE', several joined by AND."
        )
    return [Condition(m[1], m[2] or m[3], m[4]) for m in found if m is not None]


def shown_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Without MLflow's own."""
    return {key: value for key, value in tags.items() if not key.startswith(INTERNAL)}


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without the system's."""
    return {key: float(v) for key, v in metrics.items() if not key.startswith(SYSTEM)}


def ended(status: str, end_time: int | None) -> int | None:
    """The end of a run; a resumed one goes on, whatever its first attempt left behind."""
    return int(end_time) if end_time and status != "RUNNING" else None


def _named(metrics: Mapping[str, float], name_of: Callable[[str], str | None]) -> dict[str, float]:
    return {name: v for key, v in metrics.items() if (name := name_of(key)) is not None}
