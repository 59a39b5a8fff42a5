"""What workers truly do, written down by themselves: each moment of each run, by every process.

``python -m tests.drill_journal FILE ARGUMENTS...`` is ``workbench ARGUMENTS...`` with a witness: a
listener that appends a line to FILE whenever a trial's run begins, steps or ends. Optuna and MLflow
hold what the last worker said; the journal holds what every worker did, also one that was killed.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from workbench.studies.listener import TrialAddress, TrialListener
from workbench.training.events import Progress


@dataclass(frozen=True)
class Moment:
    """One line.

    Attributes:
        trial: its number.
        at: by the machine's monotonic clock, one for all processes.
        nimg: images of the run so far; None before it is loaded and at its end.
    """

    trial: int
    pid: int
    at: float
    nimg: int | None


@dataclass(frozen=True)
class Stint:
    """One process at one trial's run, from opening it to its last word.

    Attributes:
        start, reached: images of the run when it began and when it last said so; None if the
            process ended before it had loaded the run.
    """

    pid: int
    begin: float
    end: float
    start: int | None
    reached: int | None


class Witness(TrialListener):
    """A trial's listener that keeps a journal."""

    def __init__(self, address: TrialAddress, file: Path) -> None:
        self._file = file
        super().__init__(address)
        self._write(None)

    def on_start(self, progress: Progress) -> None:
        self._write(progress.nimg)
        super().on_start(progress)

    def on_iteration(self, progress: Progress) -> None:
        super().on_iteration(progress)
        self._write(progress.nimg)

    def on_end(self) -> None:
        super().on_end()
        self._write(None)

    def _write(self, nimg: int | None) -> None:
        moment = Moment(self.address.number, os.getpid(), time.monotonic(), nimg)
        line = json.dumps(asdict(moment)) + "\n"
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line.encode())  # one call: lines of several processes stay whole
        finally:
            os.close(file)


def read_journal(file: Path) -> list[Moment]:
    """All moments so far; none before the first."""
    if not file.exists():
        return []
    return [Moment(**json.loads(line)) for line in file.read_text().splitlines()]


def stints(moments: Iterable[Moment]) -> dict[int, list[Stint]]:
    """Each trial's stints in the order of their beginnings."""
    groups: dict[tuple[int, int], list[Moment]] = defaultdict(list)
    for moment in moments:
        groups[moment.trial, moment.pid].append(moment)
    found: dict[int, list[Stint]] = defaultdict(list)
    for (trial, pid), own in groups.items():
        images = [m.nimg for m in own if m.nimg is not None]
        first, last = (images[0], images[-1]) if images else (None, None)
        found[trial].append(Stint(pid, own[0].at, own[-1].at, first, last))
    return {trial: sorted(own, key=lambda s: s.begin) for trial, own in found.items()}


def check_work(found: Mapping[int, Sequence[Stint]], budget: int, batch: int) -> None:
    """Asserts that each trial's images were trained once: one process at a time, none again.

    Args:
        budget: images of a run.
        batch: images between two checkpoints; a process that dies between a checkpoint and its
            next word has trained so many that it did not tell of.
    """
    for trial, own in found.items():
        for one, two in itertools.pairwise(own):
            assert one.end <= two.begin, f"trial {trial} ran in {one.pid} and {two.pid} at once"
        reached = 0
        for stint in own:
            if stint.start is None or stint.reached is None:
                continue
            begun_again = stint.start < reached
            assert not begun_again, f"trial {trial} trained images from {stint.start} twice"
            assert stint.start - reached <= batch, f"trial {trial} skipped images at {reached}"
            reached = stint.reached
        assert reached == budget, f"trial {trial} trained {reached} of {budget} images"


def main() -> None:
    """The command line with a witness."""
    from workbench.cli.main import run_cli
    from workbench.studies import trial

    trial.TrialListener = partial(Witness, file=Path(sys.argv.pop(1)))
    run_cli()


if __name__ == "__main__":
    main()
