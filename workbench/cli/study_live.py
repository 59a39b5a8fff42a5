"""A study while it runs: a live table on a terminal, one line a trial elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from workbench.cli.common import duration

if TYPE_CHECKING:
    from workbench.studies.overview import StudyView, TrialView
    from workbench.studies.trials import StudyTrials

LOOK_SECONDS = 2.0
"""Between two looks at all trials, which would else cost the database more than the workers do."""

_WIDTH = 24


class StudyDisplay:
    """Shows a study on stderr while it runs."""

    def __init__(self, trials: StudyTrials) -> None:
        self.trials = trials
        self.console = Console(stderr=True, soft_wrap=True)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.on_terminal = sys.stderr.isatty()
        self._told: int | None = None
        self._looked = -LOOK_SECONDS
        if self.on_terminal:
            self.live.start()

    def look(self) -> None:
        """Show the study as it stands, if the last look was a while ago and the database answers.

        A table must not end a study: workers wait for the database too.
        """
        from workbench.studies.overview import study_view

        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            self.show(study_view(self.trials))
        except Exception as error:
            if not self.trials.storage.is_trouble(error):
                raise

    def show(self, view: StudyView) -> None:
        """The study now; off a terminal only what ended since the last time."""
        if self.on_terminal:
            self.live.update(render(view))
        elif self._told != view.ended:
            if self._told is not None or view.ended:
                self.say(summary_line(view))
            self._told = view.ended

    def say(self, text: str) -> None:
        """A line above the table."""
        self.console.print(text, highlight=False, markup=False)

    def stop(self) -> None:
        """Give the terminal back."""
        self.live.stop()


def render(view: StudyView) -> Group:
    """Counts, the best trial, and the running ones."""
    from workbench.launching.progress import sparkline
    from workbench.studies.objectives import get_objective

    lines: list[Text | Table] = [Text(summary_line(view))]
    if view.history:
        shown = sparkline(list(view.history), _WIDTH)
        title = get_objective(next(iter(view.objectives))).title
        lines.append(Text(f"{title} by trial  {shown}"))
    if view.running:
        lines.append(_running(view))
    return Group(*lines)


def summary_line(view: StudyView) -> str:
    """One line: how many ended, in which states, the best value, and the time left."""
    states = ", ".join(f"{count} {state}" for state, count in view.counts.items() if count)
    parts = [f"{view.name}: {view.ended} of {view.total} trials ended ({states or 'none'})"]
    if len(view.objectives) == 1 and view.best:
        parts.append(f"best {score_text(view.best[0])} in trial {view.best[0].number}")
    elif view.best:
        parts.append(f"{len(view.best)} on the Pareto front")
    if view.left:
        parts.append(f"about {duration(view.left)} left")
    return "; ".join(parts)


def score_text(trial: TrialView) -> str:
    """A complete trial's values, each with its title."""
    from workbench.studies.objectives import get_objective

    return ", ".join(
        f"{get_objective(name).title} {value:.4g}" for name, value in trial.values.items()
    )


def _running(view: StudyView) -> Table:
    from workbench.launching.progress import sparkline

    table = Table(title_justify="left", header_style="bold", box=None)
    for column in ("trial", "kimg", "reports", "", "left", "worker"):
        table.add_column(column)
    for trial in view.running:
        total = "" if trial.total_nimg is None else f" / {trial.total_nimg / 1000:g}"
        table.add_row(
            str(trial.number) + (f" (try {trial.attempts})" if trial.attempts > 1 else ""),
            f"{trial.nimg / 1000:g}{total}",
            f"{trial.curve[-1]:.4g}" if trial.curve else "",
            sparkline(list(trial.curve), _WIDTH),
            "" if trial.left is None else duration(trial.left),
            _worker(trial, view),
        )
    return table


def _worker(trial: TrialView, view: StudyView) -> str:
    worker = trial.worker or "starting"
    if trial.worker is not None and trial.worker not in view.workers:
        return f"{worker} (silent for {duration(trial.silent or 0.0)})"
    return worker
