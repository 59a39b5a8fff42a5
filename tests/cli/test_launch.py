"""Several runs of one command: what stops the rest, and what is told about runs left to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import workbench.cli.launch as launching
import workbench.registry.elsewhere as elsewhere
import workbench.runs
from workbench.cli.launch import How, launch_jobs
from workbench.errors import AlreadyRunningError, RequestError, WorkbenchError
from workbench.registry import get_experiment, make_plan
from workbench.runs import Job, RunRequest
from workbench.tracking import RunRow, default_uri
from workbench.training.nodes import Nodes
from workbench.workspace import exclusive, open_workspace

HERE = How(Nodes(1, 0, None), None, None)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    place = open_workspace(tmp_path / "w")
    plan = make_plan(get_experiment("quickstart"), [])
    uri = default_uri(place.root)
    return [Job(plan.config("default", seed), place, uri, 1, False) for seed in range(3)]


@pytest.fixture
def refuse_seed_1(monkeypatch: pytest.MonkeyPatch) -> Callable[[WorkbenchError], list[int]]:
    """Runs that do nothing but note their seeds, but for seed 1."""

    def refuse(error: WorkbenchError) -> list[int]:
        done: list[int] = []

        def execute(request: RunRequest) -> int:
            if request.config.seed == 1:
                raise error
            done.append(request.config.seed)
            return request.config.seed

        monkeypatch.setattr(workbench.runs, "execute", execute)
        return done

    return refuse


def test_a_run_that_another_process_does_stops_no_other(
    jobs: list[Job],
    refuse_seed_1: Callable[[WorkbenchError], list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = refuse_seed_1(AlreadyRunningError("Run x is already running"))
    outcomes, left = launch_jobs(jobs, HERE, share=False)
    assert (done, len(outcomes), left) == ([0, 2], 2, 0)  # two of three: the command exits with 1
    assert "Error: default, seed 1: Run x is already running" in capsys.readouterr().err
    with pytest.raises(AlreadyRunningError):
        launch_jobs(jobs[1:2], HERE, share=False)


def test_a_wrong_request_stops_the_rest(
    jobs: list[Job], refuse_seed_1: Callable[[WorkbenchError], list[int]]
) -> None:
    done = refuse_seed_1(RequestError("wrong"))
    with pytest.raises(RequestError, match="wrong"):
        launch_jobs(jobs, HERE, share=False)
    assert done == [0]


def test_a_lock_that_is_held_is_told_from_a_wrong_request(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "lock", "Run x"),
        pytest.raises(AlreadyRunningError, match="Run x is already running"),
        exclusive(tmp_path / "lock", "Run x", wait=0),
    ):
        pass
    assert issubclass(AlreadyRunningError, RequestError)


@pytest.mark.parametrize("parallel", [None, 2])
def test_what_others_began_and_did_not_finish_is_told_with_the_way_out(
    jobs: list[Job],
    parallel: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The store believes a dead machine's run running for ever."""

    def asked(config: object, workspace: object, uri: str) -> RunRow:
        seed = next(job.config.seed for job in jobs if job.config is config)
        status, tags = "FINISHED" if seed == 0 else "RUNNING", {"host": "far"}
        return RunRow(str(seed), f"default-seed{seed}", "q", "1", status, 0, None, {}, tags, {})

    monkeypatch.setattr(elsewhere, "taken_elsewhere", asked)
    monkeypatch.setattr(launching, "_in_processes", lambda own, *_: list(own))
    outcomes, left = launch_jobs(jobs, How(HERE.machines, None, parallel), share=True)
    assert (outcomes, left) == ([], 3)
    told = [line for line in capsys.readouterr().err.splitlines() if "Not finished" in line]
    assert len(told) == 2
    for seed, line in zip((1, 2), told, strict=True):
        assert f"q/default-seed{seed}, left to far." in line
        assert f"--variant default --seeds {seed} --fresh" in line
