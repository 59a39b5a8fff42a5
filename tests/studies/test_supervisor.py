"""Workers that cannot be started, or die again and again."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from workbench.studies.supervisor import supervise
from workbench.training.events import StopFlag


@dataclass
class Process:
    child: subprocess.Popen[bytes]
    outlives: bool = False

    def poll(self) -> int | None:
        return self.child.poll()

    def stop(self) -> None:
        self.child.terminate()


@dataclass
class Worker:
    index: int
    log: str = "worker.log"
    last_words: str = "No GPU."


class Machine:
    """Starts real processes of one command; ``full`` after so many."""

    def __init__(self, *command: str, full: int = 100) -> None:
        self.command, self.full = command, full
        self.started: list[Process] = []

    def start(self, job: Any) -> Process:
        if len(self.started) == self.full:
            raise OSError("no more processes")
        self.started.append(Process(subprocess.Popen(self.command)))
        return self.started[-1]


def test_workers_do_not_outlive_one_that_could_not_be_started() -> None:
    machine = Machine("sleep", "60", full=2)
    jobs: Any = [Worker(index) for index in range(3)]
    with pytest.raises(OSError, match="no more processes"):
        supervise(jobs, machine, StopFlag(), lambda: None, print)
    ends = time.monotonic() + 10
    while any(process.poll() is None for process in machine.started):
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert len(machine.started) == 2


def test_a_worker_that_is_killed_again_and_again_is_given_up_with_a_word() -> None:
    machine = Machine("sh", "-c", "kill -9 $$")
    said: list[str] = []
    jobs: Any = [Worker(0)]
    codes = supervise(jobs, machine, StopFlag(), lambda: None, said.append)
    assert codes == {0: -9}
    assert len(machine.started) == 4
    assert "killed by signal 9 for the 4th time and is given up" in said[-1]


def test_a_worker_that_its_machine_refuses_ends_alone(tmp_path: Path) -> None:
    """The others have half a second's work left."""
    script = (
        f"test -e {tmp_path}/a || {{ touch {tmp_path}/a; exit 2; }}; sleep 1.5; touch {tmp_path}/b"
    )
    machine, said = Machine("sh", "-c", script), list[str]()
    jobs: Any = [Worker(0)]
    late = Worker(1)
    started = machine.start

    def start_apart(job: Any) -> Process:
        process = started(job)
        if job is not late:
            process.child.wait()
        return process

    machine.start = start_apart
    codes = supervise([*jobs, late], machine, StopFlag(), lambda: None, said.append)
    assert codes == {0: 2, 1: 0}
    assert (tmp_path / "b").exists()
    assert said == ["Worker 0 stopped: No GPU."]
