"""The drill's witness: what it writes, and that its check sees double work."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.drill_journal import Moment, Stint, Witness, check_work, read_journal, stints
from tests.studies.conftest import MakeTrials
from workbench.studies.listener import TrialAddress
from workbench.training.events import Progress

WHOLE = Stint(pid=1, begin=0.0, end=9.0, start=0, reached=32)
FIRST = Stint(pid=1, begin=0.0, end=4.0, start=0, reached=16)
SECOND = Stint(pid=2, begin=5.0, end=9.0, start=16, reached=32)
LOOKED = Stint(pid=2, begin=9.5, end=9.6, start=None, reached=None)


@pytest.mark.parametrize(
    "work",
    [
        [WHOLE],
        [FIRST, SECOND],
        [WHOLE, LOOKED],
        [replace(FIRST, reached=0), SECOND],  # killed between its checkpoint and its next word
    ],
)
def test_honest_work_passes(work: list[Stint]) -> None:
    check_work({0: work}, budget=32, batch=16)


@pytest.mark.parametrize(
    ("work", "message"),
    [
        ([WHOLE, replace(SECOND, begin=10.0, end=12.0, start=0)], "from 0 twice"),
        ([WHOLE, replace(SECOND, begin=10.0, end=12.0)], "from 16 twice"),
        ([FIRST, replace(SECOND, begin=3.9)], "at once"),
        ([replace(FIRST, end=20.0), SECOND], "at once"),
        ([replace(FIRST, reached=0), replace(SECOND, start=32)], "skipped"),
        ([FIRST], "16 of 32"),
        ([replace(WHOLE, reached=48)], "48 of 32"),
        ([LOOKED], "0 of 32"),
    ],
)
def test_double_or_missing_work_is_found(work: list[Stint], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_work({0: work}, budget=32, batch=16)


def test_a_process_that_says_nothing_more_has_said_what_it_did(
    trials_of: MakeTrials, tmp_path: Path
) -> None:
    trials = trials_of()
    trials.extend(1)
    lease = trials.lease()
    assert lease is not None
    address = TrialAddress(trials.storage.url, trials.spec, lease.number, lease.trial_id, 0)
    file = tmp_path / "journal.jsonl"
    killed = Witness(address, file)
    killed.on_start(Progress(0, 32, 1.0))
    killed.on_iteration(Progress(16, 32, 1.0))
    (stint,) = stints(read_journal(file))[0]
    assert (stint.pid, stint.start, stint.reached) == (os.getpid(), 0, 16)
    killed.on_end()
    (ended,) = stints(read_journal(file))[0]
    assert ended.end > stint.end
    again = [
        Moment(trial=0, pid=7, at=ended.end + place, nimg=nimg)
        for place, nimg in enumerate((None, 16, 32))
    ]
    own = stints([*read_journal(file), *again])[0]
    assert [(s.start, s.reached) for s in own] == [(0, 16), (16, 32)]
    check_work({0: own}, budget=32, batch=16)
