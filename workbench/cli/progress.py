"""A bar with rate and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from workbench.training.events import Listener
from workbench.training.events import Progress as RunProgress

_LINE_SECONDS = 30.0  # between lines about one evaluation where there is no terminal


class TerminalListener(Listener):
    """Shows a run on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("images  {task.fields[rate]:.3g}/s  {task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task("distilling", total=None, rate=0.0, note="")
        self.progress: RunProgress | None = None
        self.evaluation: _Evaluation | None = None

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

    def on_evaluation(self, what: str, done: int, total: int) -> None:
        if self.evaluation is None or self.evaluation.what != what:
            self._end_evaluation()
            task = self.bar.add_task(f"evaluating {what}", total=total, rate=0.0, note="")
            self.evaluation = _Evaluation(what, task, done)
        line = self.evaluation.line(done, total)
        rate = self.evaluation.rate(done)
        self.bar.update(self.evaluation.task, completed=done, total=total, rate=rate)
        if line and not sys.stderr.isatty():
            self.console.print(line, highlight=False)
        if done >= total:
            self._end_evaluation()

    def _end_evaluation(self) -> None:
        if self.evaluation is not None:
            self.bar.remove_task(self.evaluation.task)
            self.evaluation = None

    def on_end(self) -> None:
        self._end_evaluation()
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

    def on_note(self, message: str) -> None:
        self.console.print(message, highlight=False)

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        self.bar.refresh()

    def _remaining(self) -> str:
        p = self.progress
        if sys.stderr.isatty() or p is None or not p.images_per_s:
            return ""
        seconds = (p.total_nimg - p.nimg) / p.images_per_s
        return f"  {p.images_per_s:.0f} images/s, about {seconds:.0f} s of training left"


class _Evaluation:
    """The pace of one evaluation; what was done before it was first heard of is not its own."""

    def __init__(self, what: str, task: TaskID, done: int) -> None:
        self.what, self.task, self._first = what, task, done
        self._began = self._said = time.monotonic()

    def rate(self, done: int) -> float:
        """Images a second; 0 before the first is done."""
        return (done - self._first) / max(time.monotonic() - self._began, 1e-9)

    def line(self, done: int, total: int) -> str | None:
        """Where it stands, in words, now and then."""
        now, rate = time.monotonic(), self.rate(done)
        if now - self._said < _LINE_SECONDS or not rate or done >= total:
            return None
        self._said = now
        return (
            f"Evaluating {self.what}: {done} of {total} images, {rate:.3g}/s, about "
            f"{(total - done) / rate:.0f} s left"
        )
