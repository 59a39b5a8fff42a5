"""Ranks, collectives, sharding: what training asks of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not marked so
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from workbench.errors import RequestError
from workbench.teachers.base import VelocityNetwork
from workbench.training.world import rank_variables

ResultT = TypeVar("ResultT")

_PATIENCE = timedelta(minutes=60)
"""How long a rank waits for another: rank 0 uploads, draws and writes for all."""


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
        flags = torch.tensor(float(flag))  # on the CPU: no GPU has to wait for the answer
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
        if isinstance(root, VelocityNetwork):
            register_fsdp_forward_method(root, VelocityNetwork.call_module.__name__)


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
        # srun may show each process the one GPU that is its own.
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local % torch.cuda.device_count())
    return torch.device("cpu")


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """The ranks of this process: alone, as launched, or of a script under torchrun or srun."""
    if dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size(), choose_device())
        return
    variables = rank_variables(os.environ)
    if variables is None:
        device = choose_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
        yield Ranks(0, 1, device)
        return
    os.environ.update(variables)
    yield join_group()
    # Not after an error: this rank must report its own before its peers notice that it left.
    dist.destroy_process_group()


def join_group(store: Store | None = None, rank: int = -1, world: int = -1) -> Ranks:
    """Open the process group, by default as torch's environment variables say.

    Tensors of a GPU travel by NCCL; objects, flags and tensors of the CPU by gloo.
    """
    device = choose_device()
    backend, device_id = "gloo", None
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend, device_id = "cpu:gloo,cuda:nccl", device
    elif "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    dist.init_process_group(
        backend,
        timeout=_PATIENCE,
        store=store,
        rank=rank,
        world_size=world,
        device_id=device_id,
    )
    return Ranks(dist.get_rank(), dist.get_world_size(), device)
