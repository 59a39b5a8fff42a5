"""Several machines as one run: here two processes that meet at a port of this machine."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.cli.conftest import ONLY_RUNS, InsideWorkbench
from workbench.errors import RequestError, WorkbenchError
from workbench.tracking import default_uri, list_runs, read_points
from workbench.training import parallel
from workbench.training.nodes import Nodes
from workbench.training.parallel import _met, joined_ranks, launch

SHORT = (
    *("training.kimg=0.16", "schedule.evaluate_kimg=0.16", "evaluation.samples=50"),
    *("schedule.log_kimg=0.032", "evaluation.student_steps=[4]"),
)


@pytest.fixture
def address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def machines() -> Iterator[ProcessPoolExecutor]:
    """Two processes that may have children, so that each can be a node."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


def on_node(function: Callable[[], object], nodes: Nodes, name: str, seconds: int) -> object:
    """One node's part; a WorkbenchError comes back as a value."""
    parallel._SECONDS_TO_MEET, parallel._SECONDS_TO_PART = seconds, 1
    try:
        return launch(function, 1, nodes=nodes, name=name)
    except WorkbenchError as error:
        return error


def ranks_of_all() -> tuple[int, int, list[int]]:
    with joined_ranks() as ranks:
        return ranks.rank, ranks.world, ranks.gather(ranks.rank * 10)


def fail_on_the_second() -> None:
    with joined_ranks() as ranks:
        if ranks.rank == 1:
            raise RequestError("node one has a reason")
        ranks.any(False)


def test_nodes_keep_their_order_and_say_what_failed(
    machines: ProcessPoolExecutor, address: str
) -> None:
    def both(
        function: Callable[[], object], names: tuple[str, str], ranks: tuple[int, int], seconds=60
    ):
        parts = [
            machines.submit(on_node, function, Nodes(2, rank, address), name, seconds)
            for rank, name in sorted(zip(ranks, names, strict=True), reverse=True)
        ]
        return [part.result(timeout=100) for part in reversed(parts)]

    assert both(ranks_of_all, ("run", "run"), (0, 1)) == [(0, 2, [0, 10]), (1, 2, [0, 10])]
    first, second = both(fail_on_the_second, ("run", "run"), (0, 1))
    assert isinstance(first, WorkbenchError)
    assert isinstance(second, RequestError)
    assert str(second) == "node one has a reason"
    for error in both(ranks_of_all, ("run-a", "run-b"), (0, 1)):
        assert isinstance(error, RequestError)
        assert "run-a --nproc 1" in str(error)
        assert "run-b --nproc 1" in str(error)
    both_zero = both(ranks_of_all, ("run", "run"), (0, 0), seconds=3)
    assert any("cannot use" in str(error) for error in both_zero), both_zero


def test_the_next_run_does_not_meet_the_one_before(address: str) -> None:
    """Node 1 comes to the second run while node 0 still serves the first."""

    def meets(rank: int, lingers: float) -> list[str]:
        met = []
        for what in ("first", "second"):
            with _met(Nodes(2, rank, address), what):
                met.append(what)
                time.sleep(lingers)
        return met

    with ThreadPoolExecutor(2) as threads:
        parts = [threads.submit(meets, 0, 1.0), threads.submit(meets, 1, 0.0)]
        assert [part.result(timeout=60) for part in parts] == [["first", "second"]] * 2


def test_a_node_that_stays_away_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_SECONDS_TO_MEET", 1)
    with pytest.raises(WorkbenchError, match=f"Node 1 of 2 did not come to {address} within 1 s"):
        launch(ranks_of_all, 1, nodes=Nodes(2, 0, address), name="run")
    with pytest.raises(WorkbenchError, match=f"Nobody is at the rendezvous {address}"):
        launch(ranks_of_all, 1, nodes=Nodes(2, 1, address), name="run")


def kept_as(run: Path) -> Path:
    return run.with_name(f"{run.name}~1")


def losses(run: Path) -> dict[tuple[str, int], float]:
    """What a run's journal holds of its training."""
    return {
        (point.key, point.step): point.value
        for point in read_points(run)
        if point.key.startswith("train/")
    }


def test_two_nodes_are_two_ranks(prepared: InsideWorkbench, address: str) -> None:
    """Node 0 and node 1 have the losses of two ranks on one machine; one run is tracked."""
    nodes = [
        prepared.start(
            *prepared.quick(
                *("--nodes", "2", "--node-rank", str(rank), "--rendezvous", address, "--json"),
                settings=SHORT,
            )
        )
        for rank in (1, 0)
    ]
    ends = [process.communicate(timeout=400) for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], ends
    run = prepared.only_run()
    documents = [json.loads(out) for out, _ in ends]
    assert documents[0] == documents[1] == json.loads((run / "results.json").read_text())
    (tracked,) = list_runs(default_uri(prepared.workspace), "quickstart", where=ONLY_RUNS)
    assert (tracked.status, tracked.tags["ranks"]) == ("FINISHED", "2")
    # The same configuration is the same run: set it aside and repeat it on one machine.
    prepared(*prepared.quick("--nproc", "2", "--fresh", "--json", settings=SHORT))
    ours, theirs = (losses(file) for file in (kept_as(run), run))
    assert len(ours) >= 5 * 6
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--nodes", "2"), "need --rendezvous HOST:PORT"),
        (
            ("--nodes", "2", "--node-rank", "2", "--rendezvous", "a:1"),
            "Node rank 2 is outside 0..1",
        ),
        (("--node-rank", "1", "--rendezvous", "a:1"), "1 is outside 0..0"),
        (("--rendezvous", "a:1"), "--rendezvous is for several nodes"),
        (("--nodes", "2", "--rendezvous", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("--nodes", "3", "--rendezvous", "a:1"), "not divisible by 3 ranks"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    workbench: InsideWorkbench, options: tuple[str, ...], said: str
) -> None:
    assert said in workbench(*workbench.quick(*options, "--dry-run"), code=2).stderr


def test_torchrun_by_hand_is_refused(
    workbench: InsideWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)  # as each of torchrun's processes finds them
    refused = workbench(*workbench.quick("--dry-run"), code=2)
    assert "Error: This is one of 2 processes of torchrun" in refused.stderr
    assert "--nodes, --node-rank and --rendezvous" in refused.stderr
