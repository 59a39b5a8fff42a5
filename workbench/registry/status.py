"""What has become of a plan: every variant and seed, joined with the store's runs by content."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from workbench.registry.rows import PlanRow
from workbench.runs.state import OUTCOME, RunState, state_of
from workbench.tracking import RunRow


@dataclass(frozen=True)
class Cell:
    """One variant and seed of a plan.

    ``scores`` are the last values of all that the run measures, ``score`` and ``best`` the last
    and the best value of ``primary_metric``, which judges it.
    ``left`` is what it still needs, in seconds: a run that has begun by its own pace, a pending one
    by those that are finished.
    """

    variant: str
    seed: int
    state: RunState
    kimg: float = 0.0
    total_kimg: float | None = None
    primary_metric: str | None = None
    score: float | None = None
    best: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    left: float | None = None
    host: str | None = None
    run: str | None = None
    run_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the scores by their names."""
        values = asdict(self)
        return {**values, **values.pop("scores")}


@dataclass(frozen=True)
class PlanStatus:
    """A plan and its cells, variants in the plan's order."""

    plan: PlanRow
    cells: tuple[Cell, ...]

    @property
    def primary_metric(self) -> str | None:
        """What judges the plan's runs; None before the first evaluation."""
        return next((cell.primary_metric for cell in self.cells if cell.primary_metric), None)

    @property
    def left(self) -> float | None:
        """Seconds of work left, one run after the other; None while no pace is known."""
        open_ = [cell for cell in self.cells if cell.state is not RunState.FINISHED]
        known = [cell.left for cell in open_ if cell.left is not None]
        return sum(known) if len(known) == len(open_) else None

    def count(self, state: RunState) -> int:
        return sum(cell.state is state for cell in self.cells)

    def as_dict(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan),
            "cells": [cell.as_dict() for cell in self.cells],
            "left": self.left,
        }


def plan_status(plan: PlanRow, rows: Sequence[RunRow]) -> PlanStatus:
    """Join a plan with an experiment's runs: those whose settings, but for the seed, are equal.

    A seed that was run without being planned is listed too. Of several runs of one cell (other
    machines, ``--fresh``) a finished one counts, else the newest.
    """
    found: dict[tuple[str, int], RunRow] = {}
    for run in sorted(rows, key=lambda run: (_is_finished(run), run.start_time)):
        if run.tags.get("variant_hash"):
            found[run.tags["variant_hash"], int(run.tags.get("seed", 0))] = run
    pace = _finished_seconds(list(found.values()))
    cells = []
    for variant, hash_ in plan.hashes.items():
        own = {seed for (h, seed) in found if h == hash_}
        for seed in sorted({*plan.seeds, *own} or {0}):  # as `run` would do it
            row = found.get((hash_, seed))
            cells.append(
                Cell(variant, seed, RunState.PENDING, left=pace)
                if row is None
                else _cell(variant, seed, row)
            )
    return PlanStatus(plan, tuple(cells))


def spread(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Mean and sample standard deviation; None without values.

    One value has no deviation, nor have values of which one is not finite.
    """
    if not values:
        return None
    alone = len(values) == 1 or not all(map(math.isfinite, values))
    return statistics.fmean(values), None if alone else statistics.stdev(values)


def _cell(variant: str, seed: int, row: RunRow) -> Cell:
    state = state_of(row)
    total = _number(row.params, "training.kimg")
    kimg = row.metrics.get("perf/kimg", 0.0)
    rate = row.metrics.get("perf/images_per_s", 0.0)
    scores = _as_logged(row.last_scores)
    left = None
    if state is RunState.FINISHED:
        left = 0.0
    elif total is not None and rate > 0:
        left = max(0.0, total - kimg) * 1000 / rate
    return Cell(
        variant,
        seed,
        state,
        kimg,
        total,
        row.primary,
        scores.get(row.primary or ""),
        _as_logged(row.best_scores).get(row.primary or ""),
        scores,
        left,
        row.tags.get("host"),
        row.name,
        row.run_id,
    )


def _as_logged(scores: Mapping[str, float]) -> dict[str, float]:
    """MLflow keeps infinity as the largest number there is."""
    return {
        name: math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
        for name, value in scores.items()
    }


def _finished_seconds(rows: Sequence[RunRow]) -> float | None:
    """The median training time of the finished runs; when they were interrupted does not count."""
    spans = [row.metrics.get("perf/train_seconds") for row in rows if _is_finished(row)]
    known = [span for span in spans if span is not None]
    return statistics.median(known) if known else None


def _is_finished(row: RunRow) -> bool:
    return row.tags.get(OUTCOME) == RunState.FINISHED


def _number(params: Mapping[str, str], key: str) -> float | None:
    try:
        return float(params[key])
    except (KeyError, ValueError):
        return None
