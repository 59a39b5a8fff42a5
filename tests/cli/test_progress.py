"""What a person sees of a run while it is evaluated."""

from __future__ import annotations

import pytest

from workbench.cli import progress
from workbench.cli.progress import TerminalListener
from workbench.training.events import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_an_evaluation_gets_a_line_now_and_then(clock, capsys):
    listener = TerminalListener()
    listener.on_start(Progress(0, 1000, 0.0))
    for done in range(0, 10_001, 100):
        listener.on_evaluation("student, 4 steps", done, 10_000)
        clock[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Evaluating student, 4 steps: 3000 of 10000 images, 100/s, about 70 s left",
        "Evaluating student, 4 steps: 6000 of 10000 images, 100/s, about 40 s left",
        "Evaluating student, 4 steps: 9000 of 10000 images, 100/s, about 10 s left",
    ]


def test_a_short_evaluation_says_nothing_and_none_stays_on_the_screen(clock, capsys):
    listener = TerminalListener()
    for what in ("teacher, 50 steps", "teacher, 4 steps"):
        for done in (0, 250, 500):
            listener.on_evaluation(what, done, 500)
            clock[0] += 0.1
        assert [task.description for task in listener.bar.tasks] == ["distilling"]
    assert capsys.readouterr().err == ""


def test_the_bar_has_rate_and_remaining_time_of_what_is_drawn_now(clock):
    listener = TerminalListener()
    listener.on_evaluation("student, 4 steps", 1000, 2000)  # what was kept is not its pace
    clock[0] += 10.0
    listener.on_evaluation("student, 4 steps", 1050, 2000)
    task = listener.bar.tasks[-1]
    assert task.description == "evaluating student, 4 steps"
    assert (task.completed, task.total, task.fields["rate"]) == (1050, 2000, 5.0)
    listener.on_evaluation("student, 2 steps", 0, 2000)  # the one before ended in an error
    assert [task.description for task in listener.bar.tasks] == [
        "distilling",
        "evaluating student, 2 steps",
    ]
    listener.on_end()
    assert len(listener.bar.tasks) == 1
