"""Ranks, collectives, sharding, launching: the only file that knows torch.distributed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError

ResultT = TypeVar("ResultT")

_KINDS = {kind.__name__: kind for kind in (RequestError, InterruptedRunError)}
"""Errors that a caller tells apart, also when they come from a rank of its own."""

_SECONDS_TO_CHECKPOINT = 600  # how long ranks may take to end politely


@dataclass(frozen=True)
class Ranks:
    """This process among its peers. With ``world == 1`` every operation is the identity."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """This rank's part of a global batch.

        Raises:
            RequestError: the batch is not divisible by the number of ranks.
        """
        if batch_size % self.world:
            raise RequestError(
                f"training.batch_size {batch_size} is not divisible by {self.world} ranks. "
                f"Nearest that is: {max(1, round(batch_size / self.world)) * self.world}."
            )
        return batch_size // self.world

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks of equally shaped tensors."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; the same answer on all."""
        if self.world == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def gather(self, value: ResultT) -> list[ResultT]:
        """Every rank's value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def from_main(self, value: ResultT) -> ResultT:
        """Rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def shard(self, root: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """Shard a network in place, one unit a transformer block (FSDP2, ZeRO-3)."""
        if self.world == 1:
            return
        for block in blocks:
            fully_shard(block, reshard_after_forward=True)
        # The root too: otherwise it stays unsharded after the many forwards that have no
        # backward, and EMA and requires_grad flags would see other tensors than the optimiser.
        fully_shard(root, reshard_after_forward=True)


def whole_state(network: nn.Module) -> dict[str, Any]:
    """The unsharded weights, on every rank."""
    options = StateDictOptions(full_state_dict=True)
    return get_model_state_dict(network, options=options)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The l2 norm of all gradients over all shards, a scalar."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks of this process: alone, or as launched by :func:`launch` or torchrun."""
    device = choose_device()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cpu":
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), world, device)
    # Not after an error: this rank must report its own before its peers notice that it left.
    dist.destroy_process_group()


def launch(function: Callable[..., ResultT], nproc: int, *arguments: Any) -> ResultT:
    """Call a module-level function on ``nproc`` local ranks; returns rank 0's result.

    The function joins its ranks with :func:`joined_ranks`. One rank runs in this process.

    Raises:
        WorkbenchError: a rank failed; carries the first failure's message.
    """
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
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
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
    """A rank's whole life: errors meant for people are written down for the parent."""
    # Out of the terminal's process group: Ctrl-C would reach the ranks twice, from the terminal
    # and from the launcher, and the second one means "now".
    os.setsid()
    try:
        return function(*arguments)
    except WorkbenchError as error:
        _report(reports, str(error), type(error).__name__)
        sys.exit(error.exit_code)
    except Exception as error:
        text = f"Rank {os.environ['RANK']} failed: {type(error).__name__}: {error}"
        _report(reports, text, WorkbenchError.__name__)
        raise


def _report(reports: Path, message: str, kind: str) -> None:
    """Named by the time: what fails first is the cause, its peers only lose their connection."""
    report = {"message": message, "kind": kind}
    name = f"{time.time_ns():020d}-{os.environ['RANK']}"
    (reports / name).write_text(json.dumps(report), encoding="utf-8")


def _cause(error: Exception, reports: Path) -> WorkbenchError:
    """What the first rank to fail said, else which rank died of what."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for file in sorted(reports.iterdir()):
        report = json.loads(file.read_text(encoding="utf-8"))
        return _KINDS.get(report["kind"], WorkbenchError)(report["message"])
    if isinstance(error, ChildFailedError):
        rank, failure = error.get_first_failure()
        return WorkbenchError(f"Rank {rank} failed: {failure.message}")
    return InterruptedRunError(f"Interrupted: {error}.")
