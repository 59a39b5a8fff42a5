"""Fetching or building a teacher with a bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from workbench.teachers import KNOWN_TEACHERS, find_teacher
from workbench.teachers import Progress as ShowProgress


@contextmanager
def building_bar() -> Iterator[ShowProgress]:
    """A progress callback: a bar on a terminal, one line a stage elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("building teacher: {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
                if not sys.stderr.isatty():
                    console.print(f"building teacher: {stage} ({total} steps)", highlight=False)
            bar.update(tasks[stage], completed=done)

        yield show


def find_with_bar(reference: str, teachers_dir: Path) -> Path:
    """The teacher's folder; builds an embedded one if need be."""
    with building_bar() as show:
        return find_teacher(reference, teachers_dir, show)


def ensure_with_bar(model: str, teachers_dir: Path) -> None:
    """Build the model with a bar if it is an embedded teacher; runs and folders need nothing."""
    spec = KNOWN_TEACHERS.get(model)
    if spec is not None and spec.recipe is not None:
        find_with_bar(model, teachers_dir)
