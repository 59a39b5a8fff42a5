"""A bar for work that is counted in images."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_EVERY = 10  # parts of the work after which a line is written where there is no terminal


@contextmanager
def image_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total): a bar on a terminal, some lines elsewhere."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    told = 0
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)

        def show(done: int, total: int) -> None:
            nonlocal told
            bar.update(task, completed=done, total=total)
            if not sys.stderr.isatty() and done * _EVERY // total > told:
                told = done * _EVERY // total
                console.print(f"{what}: {done} of {total} images", highlight=False)

        yield show
