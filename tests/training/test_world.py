"""Processes that another launcher started: who is one of several, and how they act as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from workbench.training.world import first_host, rank_variables

BATCH = {"SLURM_JOB_ID": "70", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
"""What a batch script finds whose allocation is for eight tasks; srun adds the step's."""

STEP = {
    **BATCH,
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        BATCH,
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        TORCHRUN | {"WORLD_SIZE": "1"},
        STEP | TORCHRUN | {"WORLD_SIZE": "1"},  # one torchrun for each task
        {"RANK": "1", "WORLD_SIZE": "2"},  # somebody else's words
    ],
)
def test_a_process_on_its_own_is_taken_for_one(environment: dict[str, str]) -> None:
    assert rank_variables(environment) is None


def test_torchrun_has_the_last_word_and_srun_is_translated() -> None:
    assert rank_variables(TORCHRUN) == rank_variables(STEP | TORCHRUN) == TORCHRUN
    assert rank_variables(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": str(15000 + 70 + 2 * 1009),
    }
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"}
    assert (rank_variables(STEP | own) or {}).items() >= own.items()


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node-a", "node-a"),
        ("node-a,node-b", "node-a"),
        ("gpu[003-010,012],x", "gpu003"),
        ("gpu[7,9]", "gpu7"),
        ("r[1-2]n[04-08].site,x[1-2]", "r1n04.site"),
        ("a.b,c[1-2]", "a.b"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


SCRIPT = """
import os, sys, time
from workbench.errors import RequestError, WorkbenchError
from workbench.training import world
from workbench.training.launch import launch, world_size
from workbench.training.parallel import init_distributed

world._SECONDS_TO_RECOVER = 4

def double(text):
    with init_distributed() as ranks:
        assert ranks.any(ranks.rank == 1)
        return ranks.gather((ranks.rank, len(text)))

def refuse(who):
    with init_distributed() as ranks:
        if ranks.rank in who:
            raise RequestError(f"ranks {who} have a reason")
        ranks.any(False)

def stumble(who):
    with init_distributed() as ranks:
        if ranks.rank in who:
            raise ValueError("a bug")
        ranks.any(False)

def strand():
    with init_distributed() as ranks:
        if ranks.rank == STRANDED:
            time.sleep(2 * world._SECONDS_TO_RECOVER)
        raise RequestError(f"rank {ranks.rank} has a reason")

def attempt(function, *arguments):
    try:
        return launch(function, 1, *arguments)
    except WorkbenchError as error:
        return f"{type(error).__name__}: {error}"

def command():
    assert world.rank_variables(os.environ) is None  # what it starts is alone
    print("big", launch(double, 1, "x" * 20_000_000))
    print("refused", attempt(refuse, [1]), attempt(refuse, [0, 1]))
    print("bug", attempt(stumble, [1]))
    print("again", attempt(double, ""), world_size(2))
    print("nproc", world_size(3))

def end_stranded():
    print("lost", attempt(strand), "|", attempt(double, ""))
    launch(double, 1, "")

def tell(message):
    print(f"Error: {message}", file=sys.stderr)

def told():
    try:
        command() if STRANDED is None else end_stranded()
    except WorkbenchError as error:
        tell(str(error))
        sys.exit(error.exit_code)

STRANDED = eval(sys.argv[1])
world.run_in_world(told, tell)
"""


def in_two_tasks(*command: str) -> list[subprocess.CompletedProcess[str]]:
    """A command as srun starts it in two tasks; their ends, rank 0's first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = STEP | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    common |= {"MASTER_PORT": str(port)}  # another session may have the same job's
    tasks = [
        subprocess.Popen(
            command,
            env={**os.environ, **common, "SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    ends = [task.communicate(timeout=200) for task in tasks]
    return [
        subprocess.CompletedProcess(command, task.returncode, *end)
        for task, end in zip(tasks, ends, strict=True)
    ]


def test_rank_0_speaks_for_all_and_a_failed_call_is_not_the_last() -> None:
    main, other = in_two_tasks(sys.executable, "-c", SCRIPT, "None")
    assert main.stdout.splitlines() == [
        "big [(0, 20000000), (1, 20000000)]",
        "refused RequestError: ranks [1] have a reason RequestError: ranks [0, 1] have a reason",
        "bug WorkbenchError: Rank 1 failed: ValueError: a bug",
        "again [(0, 0), (1, 0)] 2",
    ], (main, other)
    assert (main.returncode, other.returncode) == (2, 2)
    (line,) = main.stderr.splitlines()
    assert line == (
        "Error: This command has 2 processes of torchrun or srun, which are its ranks: "
        "drop --nproc 3."
    )
    assert other.stdout == ""
    assert other.stderr.count("Traceback") == 1  # of the bug, by the rank that has it
    assert other.stderr.strip().endswith("ValueError: a bug")


@pytest.mark.parametrize("stranded", [0, 1])
def test_where_a_rank_is_stuck_all_end(stranded: int) -> None:
    """As in a kernel of NCCL, which no error of a peer ends."""
    main, other = in_two_tasks(sys.executable, "-c", SCRIPT, str(stranded))
    failed = f"lost RequestError: rank {1 - stranded} has a reason | InterruptedRunError: "
    assert main.stdout.startswith(failed), (main, other)
    assert main.returncode == 1
    assert main.stderr.startswith("Error: A rank failed and left others")
    assert ("Error: rank 1 has a reason" in other.stderr) == (stranded == 0)
    assert "Traceback" not in other.stderr
