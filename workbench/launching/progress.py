"""How far a run is, read from its journal as it grows: for eyes on runs in other processes."""

from __future__ import annotations

import math
from pathlib import Path

from workbench.metrics import METRICS, primary_of, title_of
from workbench.tracking import Operation, journal_path, read_operations

_WIDTH = 12
_BARS = "▁▂▃▄▅▆▇█"


class RunProgress:
    """Images seen, pace and scores of one run.

    Attributes:
        scores: what judges the run at each evaluation, in order.
        primary: its name; empty before the first.
    """

    def __init__(self, folder: Path, total_nimg: int) -> None:
        self.total_nimg = total_nimg
        self.primary = ""
        self.nimg = 0
        self.images_per_s = 0.0
        self.scores: list[float] = []
        self._journal = journal_path(folder)
        self._read = 0
        self._mark: int | None = None

    @property
    def left(self) -> float | None:
        """Seconds of training left; None while the pace is unknown."""
        if self.images_per_s <= 0:
            return None
        return (self.total_nimg - self.nimg) / self.images_per_s

    @property
    def last_score(self) -> str:
        """The last score with its name, "FID 0.371"; empty before the first."""
        return f"{title_of(self.primary)} {self.scores[-1]:.3f}" if self.scores else ""

    @property
    def sparkline(self) -> str:
        """The scores as bars, lowest to highest, newest last."""
        return sparkline(self.scores)

    def refresh(self) -> None:
        """Read what was written since the last time; a new journal is read from its start."""
        mark = self._journal.stat().st_ino if self._journal.exists() else None
        if mark != self._mark:
            self.nimg, self.images_per_s, self.scores = 0, 0.0, []
            self._mark, self._read = mark, 0
        for operation in read_operations(self._journal, self._read):
            self._read = operation.end
            if operation.kind == "metrics":
                self._hear(operation)

    def _hear(self, operation: Operation) -> None:
        values, step = operation.body["values"], int(operation.body["step"])
        primary = primary_of(values) or ""
        score = values.get(METRICS[primary].key) if primary else None
        if score is not None:
            if primary != self.primary:  # another one judges from the first finite value on
                self.primary, self.scores = primary, []
            self.scores.append(float(score))
        if "perf/images_per_s" in values:
            self.images_per_s = float(values["perf/images_per_s"])
        if "perf/kimg" in values or score is not None:
            self.nimg = max(self.nimg, step)


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """The last ``width`` finite values as bars of eight heights."""
    shown = [value for value in values if math.isfinite(value)][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(_BARS[min(7, int(8 * (value - low) / span))] for value in shown)
