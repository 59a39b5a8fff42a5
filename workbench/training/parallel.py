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
from torch.distributed import (  # type: ignore[attr-defined]  # public, but not marked so
    HashStore,
    Store,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from workbench.errors import RequestError
from workbench.teachers.base import VelocityNetwork
from workbench.training.world import rank_variables

ResultT = TypeVar("ResultT")

Group = dist.ProcessGroup
"""Ranks that talk to each other apart from others."""

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

    def local_batch_size(self, batch_size: int) -> int:
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

    def check_shards(self, shards: int) -> None:
        """Whether so many ranks can share one copy of the weights.

        Raises:
            RequestError: the ranks are no multiple of them.
        """
        if self.world % shards:
            raise RequestError(
                f"training.shards={shards} does not divide the {self.world} ranks of this run."
            )

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks of equally shaped tensors, in place."""
        if self.world > 1:
            dist.all_reduce(values)
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

    def broadcast(self, value: ResultT) -> ResultT:
        """Rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@dataclass(frozen=True)
class Sharding:
    """How a run's networks are laid out: over which ranks, and what they compute with.

    Attributes:
        mesh: (shard) or, over several machines, (replicate, shard); None: one rank holds all.
        compute: type of weights and activations in a forward pass.
    """

    mesh: DeviceMesh | None
    compute: torch.dtype

    @staticmethod
    def of(ranks: Ranks, compute: torch.dtype, shards: int | None = None) -> Sharding:
        """For a run on these ranks.

        Mixed precision is sharding's on one rank too, where each is the only shard.

        Args:
            shards: ranks that share one copy of the weights; by default those of one machine.

        Raises:
            RequestError: ``shards`` does not divide the ranks.

        """
        if ranks.world == 1 and compute is torch.float32 and shards in (None, 1):
            return Sharding(None, compute)
        if not dist.is_initialized():
            join_group(HashStore(), rank=0, world=1)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
        if shards is not None:
            ranks.check_shards(shards)
        # Ranks that are spread unevenly over the machines share one copy.
        wanted = shards or (ranks.world if ranks.world % local else local)
        shape: tuple[int, ...] = (wanted,)
        names: tuple[str, ...] = ("shard",)
        if wanted < ranks.world:
            shape, names = (ranks.world // wanted, *shape), ("replicate", *names)
        kind = "cuda" if ranks.device.type == "cuda" else "cpu"
        return Sharding(init_device_mesh(kind, shape, mesh_dim_names=names), compute)

    @property
    def copies(self) -> int:
        """Of the weights, over all ranks."""
        return 1 if self.mesh is None or self.mesh.ndim == 1 else self.mesh.size(0)


@contextmanager
def fake_ranks(world: int) -> Iterator[None]:
    """Act as rank 0 of ``world`` ranks without communication, to see what a rank holds.

    An existing process group of this process alone is closed; the next run opens another.

    Raises:
        RuntimeError: this process is one of several ranks, whose group it would close.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        if dist.get_world_size() > 1:
            raise RuntimeError(
                f"This process is one of {dist.get_world_size()} ranks: an estimate would close "
                "their process group. Make it before they join, or in a process of its own."
            )
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def parallelize(root: nn.Module, blocks: Iterable[nn.Module], sharding: Sharding) -> None:
    """Shard a network in place (FSDP2): one unit a transformer block, and one of all the rest.

    Weights stay as they are stored, float32 where they are trained; a forward pass gathers them in
    ``sharding.compute`` and gives them up again, and gradients are reduced in float32. Inputs are
    cast by the network itself, which leaves times in float32.
    """
    if sharding.mesh is None:
        return
    low = sharding.compute is not torch.float32
    policy = MixedPrecisionPolicy(
        param_dtype=sharding.compute if low else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    recomputed = any(getattr(each, "gradient_checkpointing", False) for each in root.modules())
    for block in blocks:
        fully_shard(block, mesh=sharding.mesh, mp_policy=policy, reshard_after_forward=True)
        if recomputed:
            block.register_forward_pre_hook(_plainly_strided)
    # The root too: otherwise it stays unsharded after the many forwards that have no
    # backward, and EMA and requires_grad flags would see other tensors than the optimizer.
    fully_shard(root, mesh=sharding.mesh, mp_policy=policy, reshard_after_forward=True)
    stock_call = VelocityNetwork.call_module.__name__
    if hasattr(root, stock_call):
        register_fsdp_forward_method(root, stock_call)


def _plainly_strided(block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs with the same strides at every call of a block.

    Sharding hands a block's inputs on with other strides in its forward pass than when it is
    recomputed. For a batch of one a product with a frozen weight depends on them, and gradient
    checkpointing stops at the difference. Without recomputing nothing is laid out anew, so that
    a network computes the same bits in its run as when it is loaded again.
    """
    return tuple(
        value.contiguous().view(-1).view(value.shape) if isinstance(value, Tensor) else value
        for value in inputs
    )


def sync_gradients(root: nn.Module, on: bool) -> None:
    """Whether the next backward pass reduces gradients over the ranks, or each keeps its own."""
    if isinstance(root, FSDPModule):
        root.set_requires_gradient_sync(on)


def local_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shards: what is cheap to work on, without DTensor's dispatch."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def cpu_group(ranks: Ranks, timeout: timedelta) -> Group | None:
    """A second group of all ranks, over the CPU, for a background thread; None for one process.

    Every rank must call it at the same time.
    """
    if ranks.world == 1:
        return None
    group: Group = dist.new_group(backend="gloo", timeout=timeout)
    return group


def full_state_dict(network: nn.Module) -> dict[str, Any]:
    """The unsharded weights, on every rank."""
    options = StateDictOptions(full_state_dict=True)
    return get_model_state_dict(network, options=options)


def squared_norm(parameters: Iterable[nn.Parameter], device: torch.device) -> Tensor:
    """The sum of squares of this rank's shards of all gradients, a float32 scalar."""
    gradients = local_tensors(each.grad for each in parameters if each.grad is not None)
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack(torch._foreach_norm(gradients)).float().square().sum()


def choose_device() -> torch.device:
    """CUDA if available, with TF32 for float32 matrix products; else the CPU.

    Runs and later scoring both call this, so that they have the same numerics.
    """
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        # srun may show each process the one GPU that is its own.
        local = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", local % torch.cuda.device_count())
    return torch.device("cpu")


@contextmanager
def init_distributed() -> Iterator[Ranks]:
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
        if dist.is_initialized():  # sharding has opened a group of this process alone
            dist.destroy_process_group()
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
