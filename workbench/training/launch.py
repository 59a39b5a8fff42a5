"""Calls a function on several ranks: new processes, or those that torchrun or srun started."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
from workbench.training.world import Failure, current_world, rank_variables

ResultT = TypeVar("ResultT")

_SECONDS_TO_CHECKPOINT = 600  # how long ranks may take to end politely


def world_size(nproc: int) -> int:
    """How many ranks :func:`launch` calls a function on.

    Raises:
        RequestError: ranks of its own are asked of a command that torchrun or srun started ranks
            for.
    """
    world = current_world()
    if world is None:
        if rank_variables(os.environ) is not None:
            raise RequestError(
                "This is one of several processes of torchrun or srun: start it as "
                "`torchrun ... -m workbench`, or call it inside run_in_world."
            )
        return nproc
    if nproc not in (1, world.size):
        raise RequestError(
            f"This command has {world.size} processes of torchrun or srun, which are its ranks: "
            f"drop --nproc {nproc}."
        )
    return world.size


def launch(function: Callable[..., ResultT], nproc: int, *arguments: Any) -> ResultT:
    """Call a module-level function on several ranks, which it joins with ``init_distributed``.

    The ranks are the processes that torchrun or srun started, where they did; else ``nproc``
    processes of this machine. One rank alone is this process.

    Returns:
        Rank 0's result.

    Raises:
        WorkbenchError: a rank failed; carries the first failure's message.
    """
    world = current_world()
    if world is not None:
        return world.call(function, *arguments)
    if nproc == 1:
        return function(*arguments)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_endpoint="localhost:0",
        rdzv_backend="c10d",
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=_SECONDS_TO_CHECKPOINT,
    )
    with tempfile.TemporaryDirectory() as reports:
        try:
            results: dict[int, ResultT] = elastic_launch(config, _reporting)(
                function, Path(reports), arguments
            )
        except (ChildFailedError, SignalException) as error:
            raise _cause(error, Path(reports)) from error
    return results[0]


def _reporting(
    function: Callable[..., ResultT], reports: Path, arguments: tuple[Any, ...]
) -> ResultT:
    """What each rank runs: errors meant for people are written to a file for the parent."""
    # Out of the terminal's process group: Ctrl-C would reach the ranks twice, from the terminal
    # and from the launcher, and the second one means "now".
    os.setsid()
    try:
        return function(*arguments)
    except Exception as error:
        failure = Failure.of(error, int(os.environ["RANK"]))
        # Named by the time: what fails first is the cause, its peers only lose their connection.
        file = reports / f"{time.time_ns():020d}-{failure.rank}"
        file.write_text(failure.as_text(), encoding="utf-8")
        if failure.is_bug:
            raise
        sys.exit(failure.error().exit_code)


def _cause(error: Exception, reports: Path) -> WorkbenchError:
    """The error that the first failed rank reported, else which rank died and how."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for file in sorted(reports.iterdir()):
        return Failure.from_text(file.read_text(encoding="utf-8")).error()
    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        return WorkbenchError(f"Rank {rank} failed: {failure.message}")
    return InterruptedRunError(f"Interrupted: {error}.")
