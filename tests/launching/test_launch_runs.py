"""Several runs of one command: what stops the rest, and what is told about runs left to others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench.errors import (
    AlreadyRunningError,
    MemoryExhaustedError,
    RequestError,
    WorkbenchError,
)
from workbench.launching import runs as launching
from workbench.launching.jobs import LocalLauncher
from workbench.launching.runs import check_runs, launch_runs
from workbench.launching.slurm import SlurmLauncher, SlurmSettings
from workbench.registry import get_experiment, make_plan
from workbench.runs import execution
from workbench.runs.execution import execute
from workbench.runs.spec import RunSpec
from workbench.tracking import RunRow, default_uri
from workbench.workspace import exclusive, open_workspace


@pytest.fixture
def jobs(tmp_path: Path) -> list[RunSpec]:
    place = open_workspace(tmp_path / "w")
    plan = make_plan(get_experiment("quickstart"), [])
    uri = default_uri(place.root)
    return [RunSpec(plan.config("default", seed), place, uri, 1, False) for seed in range(3)]


@pytest.fixture
def refuse_seed_1(monkeypatch: pytest.MonkeyPatch) -> Callable[[WorkbenchError], list[int]]:
    """Runs that do nothing but note their seeds, but for seed 1."""

    def refuse(error: WorkbenchError) -> list[int]:
        done: list[int] = []

        def execute(spec: RunSpec, **_: object) -> int:
            if spec.config.seed == 1:
                raise error
            done.append(spec.config.seed)
            return spec.config.seed

        monkeypatch.setattr(launching, "execute", execute)
        return done

    return refuse


def test_a_run_that_another_process_does_stops_no_other(
    jobs: list[RunSpec],
    refuse_seed_1: Callable[[WorkbenchError], list[int]],
) -> None:
    done = refuse_seed_1(AlreadyRunningError("Run x is already running"))
    said: list[str] = []
    launched = launch_runs(jobs, say=said.append)
    assert (done, launched.finished, launched.left) == ([0, 2], [0, 2], [])
    assert launched.failed == [(jobs[1], "Run x is already running")]
    assert "Error: default, seed 1: Run x is already running" in said
    with pytest.raises(AlreadyRunningError):
        launch_runs(jobs[1:2])


def test_a_wrong_request_stops_the_rest(
    jobs: list[RunSpec], refuse_seed_1: Callable[[WorkbenchError], list[int]]
) -> None:
    done = refuse_seed_1(RequestError("wrong"))
    with pytest.raises(RequestError, match="wrong"):
        launch_runs(jobs)
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
    jobs: list[RunSpec],
    parallel: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store believes a dead machine's run running for ever."""

    def asked(spec: RunSpec) -> RunRow:
        seed = spec.config.seed
        return taken_row(seed, "FINISHED" if seed == 0 else "RUNNING")

    said: list[str] = []
    monkeypatch.setattr(launching, "taken_elsewhere", asked)
    launched = launch_runs(jobs, parallel=parallel, share=True, say=said.append)
    assert (launched.finished, launched.failed, len(launched.left)) == ([], [], 3)
    told = [line for line in said if "Not finished" in line]
    assert len(told) == 2
    for seed, line in zip((1, 2), told, strict=True):
        assert f"q/default-seed{seed}, left to far." in line
        assert f"--variant default --seed {seed} --fresh" in line


def taken_row(seed: int, status: str = "RUNNING") -> RunRow:
    return RunRow(
        str(seed), f"default-seed{seed}", "q", "1", status, 0, None, {}, {"host": "far"}, {}
    )


@pytest.mark.parametrize("parallel", [1, 2])
def test_what_others_begin_meanwhile_is_left_to_them_side_by_side_too(
    jobs: list[RunSpec],
    parallel: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second person's command begins seed 2 after ours has begun seeds 0 and 1."""
    begun: list[int] = []

    def asked(spec: RunSpec) -> RunRow | None:
        return taken_row(2) if spec.config.seed == 2 and begun == [0, 1] else None

    class Ended:
        def poll(self) -> int:
            return 0

    def finish(spec: RunSpec) -> Ended:
        begun.append(spec.config.seed)
        spec.folder.results_file.parent.mkdir(parents=True)
        spec.folder.results_file.write_text("{}")
        return Ended()

    def execute(spec: RunSpec, **_: object) -> int:
        begun.append(spec.config.seed)
        return spec.config.seed

    heard: list[str] = []
    monkeypatch.setattr(launching, "taken_elsewhere", asked)
    monkeypatch.setattr(launching, "execute", execute)
    monkeypatch.setattr(LocalLauncher, "start", lambda self, spec: finish(spec))
    launched = launch_runs(
        jobs,
        parallel=parallel,
        share=True,
        find_teacher=lambda *_: jobs[0].workspace.root,
        say=heard.append,
    )
    assert (begun, len(launched.finished), len(launched.left)) == ([0, 1], 2, 1)
    said = "\n".join(heard)
    assert said.count("q/default-seed2 is running on far; --fresh runs it here too.") == 1
    assert said.count("Not finished: q/default-seed2, left to far.") == 1


def run_out_of_memory(where: str) -> None:
    if where == "gpu":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")
    if where == "python":
        raise MemoryError
    torch.empty(2**48)


@pytest.mark.parametrize("where", ["gpu", "cpu", "python"])
def test_a_run_without_enough_memory_is_one_line_and_stops_no_other(
    where: str,
    jobs: list[RunSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(spec: RunSpec, *_: object) -> int:
        if spec.config.seed == 1:
            run_out_of_memory(where)
        return spec.config.seed

    monkeypatch.setattr(execution, "_execute", run)
    said: list[str] = []
    assert launch_runs(jobs, say=said.append).finished == [0, 2]
    (line,) = [x for x in said if x.startswith("Error:")]
    assert "does not fit into memory: " in line
    assert line.endswith("with the same --set and --nproc.")
    with pytest.raises(MemoryExhaustedError) as caught:
        execute(jobs[1])
    # The traceback that holds the tensors is gone when the next run begins.
    assert caught.value.__context__ is None


def test_a_bug_keeps_its_traceback(jobs: list[RunSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> int:
        raise RuntimeError("shapes (2, 3) and (4,) do not match")

    monkeypatch.setattr(execution, "_execute", run)
    with pytest.raises(RuntimeError, match="do not match"):
        launch_runs(jobs)


def test_a_cluster_that_is_not_here_is_refused_before_anything_begins(
    jobs: list[RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not run by run: nothing about one of them would help."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(jobs[0].workspace.root))
    with pytest.raises(RequestError, match="No srun on this machine"):
        check_runs(jobs, SlurmLauncher(SlurmSettings()))


def test_gpus_are_never_shared_in_silence(
    jobs: list[RunSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight GPUs: as many processes of one, four of two; more are told to share, or refused."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join("01234567"))

    def given(parallel: int, nproc: int) -> tuple[list[str], list[str]]:
        said: list[str] = []
        launcher = LocalLauncher(parallel, said.append)
        shares = [launcher._share(slot, nproc) for slot in range(parallel)]
        return [share["CUDA_VISIBLE_DEVICES"] for share in shares], said

    assert given(8, 1) == (list("01234567"), [])
    assert given(4, 2) == (["0,1", "2,3", "4,5", "6,7"], [])
    shared, said = given(3, 3)
    assert shared == ["0,1,2", "3,4,5", "0,1,2"]
    assert said == [
        "Up to 3 processes of 3 GPUs each share 8: they share memory and time too. 2 at once have "
        "GPUs of their own."
    ]
    with pytest.raises(RequestError, match="--nproc 16 needs 16 GPUs, one a process, and 8 can"):
        check_runs([replace(jobs[0], nproc=16)])
