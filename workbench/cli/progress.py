"""A bar with rate and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from workbench.training.events import Listener
from workbench.training.events import Progress as RunProgress


class TerminalListener(Listener):
    """Shows a run on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            TextColumn("distilling"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[rate]:.0f}/s  {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task("", total=None, rate=0.0, note="")
        self.progress: RunProgress | None = None

    def on_start(self, progress: RunProgress) -> None:
        if progress.nimg:
            self.console.print(f"Resuming at {progress.nimg / 1000:g} kimg.")
        if sys.stderr.isatty():
            self.bar.start()
        self.on_iteration(progress)

    def on_iteration(self, progress: RunProgress) -> None:
        self.progress = progress
        self.bar.update(
            self.task,
            completed=progress.nimg,
            total=progress.total_nimg,
            rate=progress.images_per_s,
        )

    def on_end(self) -> None:
        self.bar.stop()

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        scores = {k.removeprefix("eval/"): v for k, v in values.items() if k.startswith("eval/")}
        if not scores:
            return
        note = "  ".join(f"{name} {value:.3g}" for name, value in scores.items())
        self.bar.update(self.task, note=note)
        self.console.print(f"{nimg / 1000:8.1f} kimg  {note}{self._remaining()}", highlight=False)

    def on_warning(self, nimg: int, message: str) -> None:
        self.console.print(f"Warning at {nimg / 1000:g} kimg: {message}", highlight=False)

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        self.bar.refresh()

    def _remaining(self) -> str:
        p = self.progress
        if sys.stderr.isatty() or p is None or not p.images_per_s:
            return ""
        seconds = (p.total_nimg - p.nimg) / p.images_per_s
        return f"  {p.images_per_s:.0f} images/s, about {seconds:.0f} s of training left"
