"""Ranks, collectives, sharding, launching: the only file that knows torch.distributed."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import (  # type: ignore[attr-defined]  # public, but not marked so
    HashStore,
    PrefixStore,
    TCPStore,
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

from workbench.errors import (
    InterruptedRunError,
    MachineError,
    MemoryExhaustedError,
    PrunedRunError,
    RequestError,
    SettingsError,
    WorkbenchError,
)
from workbench.teachers.base import VelocityNetwork
from workbench.training.nodes import ALONE, Nodes

ResultT = TypeVar("ResultT")

_KINDS = {
    kind.__name__: kind
    for kind in (
        SettingsError,
        RequestError,
        MachineError,
        MemoryExhaustedError,
        InterruptedRunError,
        PrunedRunError,
    )
}
"""Errors that a caller tells apart, also when they come from a rank of its own."""

_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch raises a plain RuntimeError there
_SECONDS_TO_CHECKPOINT = 600  # how long ranks may take to end politely
_SECONDS_TO_MEET = 900  # node 0 may have a teacher to build or to fetch first
_SECONDS_TO_JOIN = 120  # once all have met
_SECONDS_TO_PART = 30  # node 0 may still be closing the run before this one

_SERVED = "served"  # what node 0 is here for
_STRANGER = "stranger"  # the complaint of a node that is here for something else


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

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks of equally shaped tensors, in place."""
        if self.world > 1:
            dist.all_reduce(values)
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
            RequestError: they do not divide the ranks.
        """
        if ranks.world == 1 and compute is torch.float32:
            return Sharding(None, compute)
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        local = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world))
        wanted = shards or min(local, ranks.world)
        if ranks.world % wanted:
            raise RequestError(
                f"training.shards {wanted} does not divide the {ranks.world} ranks of this run."
            )
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
    """As rank 0 of a world in which nobody answers and nothing is sent, to see what a rank holds.

    A process group of this process alone is closed: networks that are sharded in it
    send nothing, and the next run opens another.

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
    for block in blocks:
        fully_shard(block, mesh=sharding.mesh, mp_policy=policy, reshard_after_forward=True)
    # The root too: otherwise it stays unsharded after the many forwards that have no
    # backward, and EMA and requires_grad flags would see other tensors than the optimiser.
    fully_shard(root, mesh=sharding.mesh, mp_policy=policy, reshard_after_forward=True)
    stock_call = VelocityNetwork.call_module.__name__
    if hasattr(root, stock_call):
        register_fsdp_forward_method(root, stock_call)


def sync_gradients(root: nn.Module, on: bool) -> None:
    """Whether the next backward pass reduces gradients over the ranks, or each keeps its own."""
    if isinstance(root, FSDPModule):
        root.set_requires_gradient_sync(on)


def local_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shards: what is cheap to work on, without DTensor's dispatch."""
    return [each.to_local() if isinstance(each, DTensor) else each for each in tensors]


def whole_state(network: nn.Module) -> dict[str, Any]:
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
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Ranks(dist.get_rank(), world, device)
    # Not after an error: this rank must report its own before its peers notice that it left.
    dist.destroy_process_group()


def refuse_foreign_ranks() -> None:
    """Several processes that another launcher started would each start the whole run.

    Raises:
        RequestError: this is one of torchrun's processes.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_torchelastic_launched() and world > 1:
        raise RequestError(
            f"This is one of {world} processes of torchrun, but workbench starts its own: call it "
            "without torchrun, once on each machine, with --nproc and, on several machines, "
            "--nodes, --node-rank and --rendezvous."
        )


def launch(
    function: Callable[..., ResultT],
    nproc: int,
    *arguments: Any,
    nodes: Nodes = ALONE,
    name: str = "",
) -> ResultT:
    """Call a module-level function on ``nproc`` ranks of each node.

    The function joins its ranks with :func:`joined_ranks`. One rank alone runs in this process.

    Args:
        nodes: every node calls this function; global rank 0 is on node 0.
        name: what is launched; with several nodes, the same on each.

    Returns:
        This node's first rank's result: on node 0 that of rank 0.

    Raises:
        WorkbenchError: a rank failed; carries the first failure's message. Or a node stayed away.
    """
    if nproc * nodes.count == 1:
        return function(*arguments)
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=nproc,
        run_id=hashlib.sha256(name.encode()).hexdigest()[:16] if name else uuid.uuid4().hex,
        rdzv_endpoint=nodes.rendezvous or "localhost:0",
        # Only the static rendezvous keeps the order of the nodes: c10d's sorts their addresses,
        # and the rank that writes and speaks would be on any machine.
        rdzv_backend="c10d" if nodes.count == 1 else "static",
        rdzv_configs={"rank": nodes.rank, "timeout": _SECONDS_TO_JOIN},
        max_restarts=0,
        monitor_interval=0.1,
        shutdown_timeout=_SECONDS_TO_CHECKPOINT,
    )
    with tempfile.TemporaryDirectory() as reports:
        try:
            with _met(nodes, f"{name} --nproc {nproc}"):
                results: dict[int, ResultT] = elastic_launch(config, _reporting)(
                    function, Path(reports), arguments
                )
        except (ChildFailedError, SignalException) as error:
            raise _cause(error, Path(reports)) from error
        except dist.DistError as error:
            raise WorkbenchError(f"Lost the other nodes at {nodes.rendezvous}: {error}.") from error
    return results[min(results)]


@contextmanager
def _met(nodes: Nodes, what: str) -> Iterator[None]:
    """Wait until every node is here for the same thing, in a way that Ctrl-C can end.

    Raises:
        RequestError: the port is taken, or the nodes were started with different commands.
        WorkbenchError: a node stayed away.
    """
    if nodes.count == 1:
        yield
        return
    deadline = time.monotonic() + _SECONDS_TO_MEET
    store = _store_for(nodes, what, deadline)
    # Prefixed, because node 0's server may have served the run before this one, too.
    own = PrefixStore(what, store)
    if own.add(f"node/{nodes.rank}", 1) > 1:
        raise RequestError(f"Two nodes have --node-rank {nodes.rank} at {nodes.rendezvous}.")
    for rank in range(nodes.count):
        while not own.check([f"node/{rank}"]):
            if own.check([_STRANGER]):
                raise RequestError(own.get(_STRANGER).decode())
            _wait(deadline, f"Node {rank} of {nodes.count} did not come to {nodes.rendezvous}")
    yield  # node 0's store lives on until all is done
    del own, store


def _store_for(nodes: Nodes, what: str, deadline: float) -> TCPStore:
    """The rendezvous, once node 0 opens it for this: it may still be at the run before.

    Raises:
        RequestError: the port is taken, or node 0 stays with something else.
        WorkbenchError: node 0 stayed away.
    """
    store = _store(nodes, deadline)
    if nodes.rank == 0:
        store.set(_SERVED, what)
        return store
    patience = time.monotonic() + _SECONDS_TO_PART
    while True:
        try:
            served = store.get(_SERVED).decode() if store.check([_SERVED]) else None
            if served == what:
                return store
            if served is not None and time.monotonic() > patience:
                odd = (
                    f"Node 0 was started for {served}, node {nodes.rank} for {what}: start the "
                    "same command on every node."
                )
                PrefixStore(served, store).set(_STRANGER, odd)
                raise RequestError(odd)
        except dist.DistError:  # node 0 has closed the run before
            store = _store(nodes, deadline)
        _wait(deadline, f"Node 0 did not open {nodes.rendezvous} for {what}")


def _store(nodes: Nodes, deadline: float) -> TCPStore:
    """Node 0 opens the rendezvous; the others wait until it is open."""
    host, port = nodes.address
    serves = nodes.rank == 0
    while not serves:
        try:
            socket.create_connection((host, port), timeout=5).close()
            break
        except OSError as error:
            _wait(deadline, f"Nobody is at the rendezvous {nodes.rendezvous} ({error})")
    try:
        return TCPStore(
            host,
            port,
            is_master=serves,
            timeout=timedelta(seconds=_SECONDS_TO_MEET),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise RequestError(
            f"Node {nodes.rank} cannot use {nodes.rendezvous} as the rendezvous: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _wait(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise WorkbenchError(f"{problem} within {_SECONDS_TO_MEET} s.")
    time.sleep(0.2)


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
        names = (kind.__name__ for kind in type(error).__mro__)
        _report(reports, str(error), next((n for n in names if n in _KINDS), ""))
        sys.exit(error.exit_code)
    except Exception as error:
        if ran_out_of_memory(error):
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            _report(reports, reason, MemoryExhaustedError.__name__)
            sys.exit(MemoryExhaustedError.exit_code)
        text = f"Rank {os.environ['RANK']} failed: {type(error).__name__}: {error}"
        _report(reports, text, MachineError.__name__ if isinstance(error, OSError) else "")
        raise


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    kinds = torch.OutOfMemoryError | MemoryError | MemoryExhaustedError
    return isinstance(error, kinds) or _CPU_ALLOCATOR in str(error)


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
