"""Several runs at once: a live table on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from workbench.cli.common import duration
from workbench.launching.pool import JobView, Watcher
from workbench.runs.state import RunState

_ROWS = 24
_MARKS = {
    RunState.RUNNING: "▶",
    RunState.FINISHED: "✓",
    RunState.FAILED: "✗",
    RunState.INTERRUPTED: "‖",
    RunState.PENDING: "·",
}


class JobsWatcher(Watcher):
    """Shows the jobs of an experiment on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.on_terminal = sys.stderr.isatty()
        self.began = time.monotonic()
        self.ended = 0

    def on_change(self, view: JobView) -> None:
        config = view.spec.config
        name = f"{config.experiment}/{config.variant}, seed {config.seed}"
        if view.state is RunState.RUNNING:
            self._line(f"started {name}  (log: {view.spec.log})")
            return
        self.ended += 1
        took = duration(time.monotonic() - (view.started or self.began))
        if view.state is RunState.FINISHED:
            score = view.progress.last_score
            self._line(f"[{self.ended}] done {name} in {took}{score and ', ' + score}")
        elif view.state is RunState.INTERRUPTED:
            self._line(f"[{self.ended}] stopped {name} after {took}; the same command continues it")
        else:
            after = "" if view.started is None else f" after {took}"
            self._line(f"[{self.ended}] FAILED {name}{after}: {view.problem}")

    def on_look(self, views: Sequence[JobView]) -> None:
        if self.on_terminal:
            self.live.start()  # again and again does nothing
            self.live.update(self._table(views))

    def on_end(self) -> None:
        self.live.stop()

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)

    def _table(self, views: Sequence[JobView]) -> Table:
        done = sum(view.state is RunState.FINISHED for view in views)
        left = self._left(views)
        foot = f"{done} of {len(views)} done" + (
            "" if left is None else f", about {duration(left)} left"
        )
        title = views[0].spec.config.experiment if views else ""
        table = Table(title=title, caption=foot, title_justify="left", header_style="bold")
        for column in ("", "variant", "seed", "kimg", "images/s", "score", "", "left"):
            table.add_column(column)
        for view in _most_telling(views):
            table.add_row(*_row(view))
        return table

    def _left(self, views: Sequence[JobView]) -> float | None:
        """Wall time to the end, by the pace of this session so far."""
        over = (RunState.FAILED, RunState.INTERRUPTED)
        views = [view for view in views if view.state not in over]
        total = sum(view.progress.total_nimg for view in views)
        seen = sum(
            view.progress.total_nimg if view.state is RunState.FINISHED else view.progress.nimg
            for view in views
        )
        here = seen - sum(view.resumed_at for view in views)
        spent = time.monotonic() - self.began
        return None if here <= 0 else spent * (total - seen) / here


def _most_telling(views: Sequence[JobView]) -> list[JobView]:
    """All, or what fits: running first, then failed, the last finished, the next to come."""
    if len(views) <= _ROWS:
        return list(views)
    order = (
        *(RunState.RUNNING, RunState.FAILED, RunState.INTERRUPTED),
        *(RunState.FINISHED, RunState.PENDING),
    )
    ranked = [view for state in order for view in views if view.state is state]
    kept = {id(view) for view in ranked[:_ROWS]}
    return [view for view in views if id(view) in kept]


def _row(view: JobView) -> list[str]:
    config, progress = view.spec.config, view.progress
    running = view.state is RunState.RUNNING
    left = progress.left if running else None
    return [
        _MARKS[view.state],
        config.variant,
        str(config.seed),
        f"{progress.nimg / 1000:g} / {progress.total_nimg / 1000:g}",
        f"{progress.images_per_s:.0f}" if running and progress.images_per_s else "",
        progress.last_score,
        progress.sparkline,
        "" if left is None else duration(left),
    ]
