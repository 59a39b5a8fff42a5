"""Several runs of one command: what stops the rest, and what is told about runs left to others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import workbench.cli.launch as launching
import workbench.registry.elsewhere as elsewhere
from workbench.cli.follow_up import follow_up
from workbench.cli.launch import LaunchOptions, check_jobs, launch_jobs
from workbench.cli.outcomes import show_outcomes
from workbench.errors import (
    AlreadyRunningError,
    MemoryExhaustedError,
    RequestError,
    WorkbenchError,
)
from workbench.launching.jobs import Job, LocalLauncher
from workbench.launching.slurm import SlurmLauncher, SlurmSettings
from workbench.registry import get_experiment, make_plan
from workbench.runs import execution
from workbench.runs.execution import RunOutcome, RunRequest, execute
from workbench.tracking import RunRow, default_uri
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder
from workbench.workspace import Workspace, exclusive, open_workspace

HERE = LaunchOptions(None, None)


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

        monkeypatch.setattr(execution, "execute", execute)
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
    outcomes, left = launch_jobs(jobs, LaunchOptions(None, parallel), share=True)
    assert (outcomes, left) == ([], 3)
    told = [line for line in capsys.readouterr().err.splitlines() if "Not finished" in line]
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
    jobs: list[Job],
    parallel: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A second person's command begins seed 2 after ours has begun seeds 0 and 1."""
    begun: list[int] = []

    def asked(config: RunConfig, workspace: object, uri: str) -> RunRow | None:
        return taken_row(2) if config.seed == 2 and begun == [0, 1] else None

    class Ended:
        def poll(self) -> int:
            return 0

    def finish(job: Job) -> Ended:
        begun.append(job.config.seed)
        job.folder.results_file.parent.mkdir(parents=True)
        job.folder.results_file.write_text("{}")
        return Ended()

    def execute(request: RunRequest) -> int:
        begun.append(request.config.seed)
        return request.config.seed

    monkeypatch.setattr(elsewhere, "taken_elsewhere", asked)
    monkeypatch.setattr(execution, "execute", execute)
    monkeypatch.setattr(LocalLauncher, "start", lambda self, job: finish(job))
    monkeypatch.setattr("workbench.cli.building.ensure_with_bar", lambda *_: None)
    outcomes, left = launch_jobs(jobs, LaunchOptions(None, parallel), share=True)
    assert (begun, len(outcomes), left) == ([0, 1], 2, 1)
    said = capsys.readouterr().err
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
    jobs: list[Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(request: RunRequest) -> int:
        if request.config.seed == 1:
            run_out_of_memory(where)
        return request.config.seed

    monkeypatch.setattr(execution, "_execute", run)
    outcomes, left = launch_jobs(jobs, HERE, share=False)
    assert (outcomes, left) == ([0, 2], 0)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Error:")]
    assert "does not fit into memory: " in line
    assert line.endswith("with the same --set and --nproc.")
    job = jobs[1]
    with pytest.raises(MemoryExhaustedError) as caught:
        execute(RunRequest(job.config, job.workspace, job.tracking_uri))
    # The traceback that holds the tensors is gone when the next run begins.
    assert caught.value.__context__ is None


def test_a_bug_keeps_its_traceback(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(request: RunRequest) -> int:
        raise RuntimeError("shapes (2, 3) and (4,) do not match")

    monkeypatch.setattr(execution, "_execute", run)
    with pytest.raises(RuntimeError, match="do not match"):
        launch_jobs(jobs, HERE, share=False)


def test_a_cluster_that_is_not_here_is_refused_before_anything_begins(
    jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not run by run: nothing about one of them would help."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(jobs[0].workspace.root))
    how = LaunchOptions(SlurmLauncher(SlurmSettings()), None)
    with pytest.raises(RequestError, match="No srun on this machine"):
        check_jobs(jobs, how)


def test_commands_to_go_on_with_name_the_store_unless_they_find_it_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workspace(tmp_path / "my work")
    own, other = default_uri(place.root), "postgresql://ada:secret@host/mlflow"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    bare = f"workbench ui --experiment q --workspace '{place.root}'"
    named = f"{bare} --tracking-uri 'postgresql://ada:***@host/mlflow'"
    assert follow_up(place, own, "ui", "--experiment", "q").endswith(bare)
    assert follow_up(place, other, "ui", "--experiment", "q").endswith(named)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert follow_up(place, other, "ui", "--experiment", "q").endswith(bare)
    assert "--tracking-uri" in follow_up(place, own, "ui")


def test_the_end_of_a_run_opens_the_store_that_it_was_tracked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    row = {"model": "teacher", "steps": 4, "nfe": 4, "ms_per_image": 1.0, "fid": 0.5}
    folder = RunFolder(tmp_path / "runs" / "q" / "default-seed0")
    outcome = RunOutcome(folder, {"run": "q/default-seed0", "table": [row]}, trained=True)
    show_outcomes([outcome], [], Workspace(tmp_path), "http://host:5000")
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "in the browser" in x]
    assert line.endswith(f" --workspace {tmp_path} --tracking-uri http://host:5000")
