"""How much memory a run takes on each rank, before anything is allocated.

The run's own trainer takes a step of its own method on tensors without memory, in a world of as
many ranks that nobody else is in. So full copies or adapters, precision, sharding, checkpointing,
guidance and the order in which graphs live and die are the trainer's, not a formula's.
Not counted: what a kernel takes inside itself, fragmentation, the CUDA context, evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.methods import Pairs, method_type
from workbench.teachers.architecture import Architecture
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import ModuleWeights
from workbench.training.config import RunConfig
from workbench.training.live_bytes import LiveBytes
from workbench.training.networks import DistillationInputs, adam, sharded_root
from workbench.training.parallel import Ranks, fake_ranks, local_tensors
from workbench.training.trainer import Trainer

_FEW = 3  # blocks of a kind that are gone through; the others cost as much each
_AFTER_WARM_UPS = 10**12  # images after which a method's phases are all there
_CPU = torch.device("cpu")
_META = torch.device("meta")


@dataclass(frozen=True)
class Estimate:
    """Peak bytes per rank during a step, by what takes them.

    ``activations`` is all that an update needs besides gradients, gathered weights included.
    """

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def estimate_memory(
    architecture: Architecture, config: RunConfig, ranks: int = 1, held: int = 0
) -> Estimate:
    """The peak memory of a run.

    All blocks of one kind cost the same, so every kind is counted with three of its blocks, then
    with a fourth; the difference is the cost of each further block.

    Args:
        ranks: devices that share the weights; the micro-batch is each one's own.
        held: bytes of everything else that stays on the device (autoencoder, ...).

    Raises:
        RequestError: the batch does not divide by the ranks, or the network refuses a setting.
    """

    def counted(blocks: Mapping[str, int]) -> dict[str, int]:
        return _step(architecture, config, ranks, blocks)

    return Estimate({**_of_all_blocks(architecture, counted, _FEW), "held": held})


def least_memory(
    architecture: Architecture, config: RunConfig, ranks: int = 1, held: int = 0
) -> int:
    """The same without gradients and activations, which is fast."""
    return held + sum(_roles(architecture, config, ranks).values())


def checkpoint_bytes(architecture: Architecture, config: RunConfig) -> tuple[int, int]:
    """Size of one checkpoint (trained networks, their moments, the average), and of the average."""
    kept = _roles(architecture, config, 1)
    size = sum(kept[part] for part in ("students", "moments", "average", "buffers"))
    return size, kept["average"]


def _roles(architecture: Architecture, config: RunConfig, ranks: int) -> dict[str, int]:
    """What stays in memory all the time, in bytes per rank."""

    def counted(blocks: Mapping[str, int]) -> dict[str, int]:
        with fake_ranks(ranks):
            return _kept(_trainer(architecture, config, ranks, blocks))

    return _of_all_blocks(architecture, counted, 1)


def _of_all_blocks(
    architecture: Architecture, counted: Callable[[Mapping[str, int]], dict[str, int]], few: int
) -> dict[str, int]:
    """The parts of the whole network, extrapolated from ``few`` blocks of a kind and one more."""
    kinds = Counter(_kind(block) for block in architecture.network().blocks())
    blocks = {kind: min(count, few) for kind, count in kinds.items()}
    base = counted(blocks)
    parts = dict(base)
    for kind, count in kinds.items():
        if count > few:
            more = counted({**blocks, kind: few + 1})
            for part in parts:
                parts[part] += (count - few) * (more[part] - base[part])
    return parts


def _kind(block: nn.Module) -> str:
    """Equal for blocks of the same layers and sizes."""
    return repr(block)


def _step(
    architecture: Architecture, config: RunConfig, ranks: int, blocks: Mapping[str, int]
) -> dict[str, int]:
    """The parts of a step's peak in a network with ``blocks`` of each kind."""
    with fake_ranks(ranks):
        trainer = _trainer(architecture, config, ranks, blocks)
        with FakeTensorMode(allow_non_fake_inputs=True):
            trainer.give_fake_memory(architecture)
            kept = _kept(trainer)
            with LiveBytes(trainer.everything(), trainer.gradient_bytes) as trainer.live:
                trainer.train_step()
    live = trainer.live
    activations = live.peak - live.peak_gradients
    return {**kept, "gradients": live.peak_gradients, "activations": activations}


def _trainer(
    architecture: Architecture,
    config: RunConfig,
    ranks: int,
    blocks: Mapping[str, int],
) -> _FakeTrainer:
    """The run's trainer on the meta device, with at most two micro-batches per rank."""
    network = architecture.network()
    _keep_blocks(network, blocks)
    local = Ranks(0, ranks, _META).local_batch_size(config.training.batch_size)
    micro = min(config.training.micro_batch_size or local, local)
    # Two micro-batches show what accumulates, but shared rollouts keep a graph of each.
    keeps_all = getattr(config.method, "share_rollout", False)
    size = local if keeps_all else min(local, 2 * micro)
    training = config.training.model_copy(
        update={"batch_size": size * ranks, "micro_batch_size": micro, "compile": False}
    )
    # Evaluations before the last keep nothing, where a method takes any number of them.
    steps = 1 if method_type(config.method).partial_steps else config.generator.steps
    generator = config.generator.model_copy(update={"steps": steps})
    student = DistillationInputs(
        network,
        architecture.latent_shape,
        _AnyPrompts(architecture),
        architecture.prompts(1),
        pairs=_AnyPairs(architecture),
        weights=ModuleWeights(network.module),
    )
    settings = config.model_copy(update={"training": training, "generator": generator})
    trainer = _FakeTrainer(settings, student, Ranks(0, ranks, _META))
    trainer.batches._reader = _NothingAhead()
    trainer.state.nimg = _AFTER_WARM_UPS - _AFTER_WARM_UPS % training.batch_size
    return trainer


class _FakeTrainer(Trainer):
    """The real trainer, but it never reads values, which fake tensors do not have."""

    live: LiveBytes

    def give_fake_memory(self, architecture: Architecture) -> None:
        """From the meta device to the CPU, for which all kernels exist."""
        moved: dict[Tensor, Tensor] = {}  # buffers that networks share stay shared
        for root in self._roots():
            parts = list(root.modules())
            before = [dict(part._buffers) for part in parts]
            root.to_empty(device=_CPU)
            for part, buffers in zip(parts, before, strict=True):
                for name, old in buffers.items():
                    fresh = part._buffers[name]
                    if old is not None and fresh is not None:
                        part._buffers[name] = moved.setdefault(old, fresh)
        settings = self.config.training.optimizers
        self.optimizers = {
            name: adam(self.networks.module(name), settings[name]) for name in self.optimizers
        }
        self.networks = replace(self.networks, uncond=architecture.prompts(1))
        self.ranks = self.batches.ranks = Ranks(0, self.ranks.world, _CPU)

    def _roots(self) -> list[nn.Module]:
        """The modules that hold all weights, each once."""
        networks = self.networks
        every = (networks.teacher, *networks.trained.values(), self.average)
        roots = [*map(sharded_root, every), *networks.heads.values()]
        return list({id(root): root for root in roots}.values())

    def everything(self) -> list[Tensor]:
        """All tensors that exist between steps."""
        weights = [v for root in self._roots() for v in (*root.parameters(), *root.buffers())]
        return local_tensors([*weights, *self.moments()])

    def moments(self) -> list[Tensor]:
        states = (state for o in self.optimizers.values() for state in o.state.values())
        return [value for state in states for value in state.values()]

    def gradient_bytes(self) -> int:
        groups = (group for o in self.optimizers.values() for group in o.param_groups)
        weights = (weight for group in groups for weight in group["params"])
        return _bytes(weight.grad for weight in weights if weight.grad is not None)

    def _take_in(self, all_but: int) -> None:
        self._unread.clear()

    def _step(self, optimizer: torch.optim.Optimizer, nonfinite: Tensor) -> None:
        with self.live.paused():  # it works in place
            super()._step(optimizer, nonfinite)


class _NothingAhead(ThreadPoolExecutor):
    """Prefetches nothing: a fake tensor mode is active in one thread only."""

    def submit(self, *_: Any, **__: Any) -> Any:
        return Future()


def _keep_blocks(network: VelocityNetwork, counts: Mapping[str, int]) -> None:
    left = dict(counts)
    for child in network.module.children():
        if isinstance(child, nn.ModuleList):
            for place, block in reversed(list(enumerate(child))):
                if left[_kind(block)] == 0:
                    del child[place]
                else:
                    left[_kind(block)] -= 1


def _kept(trainer: _FakeTrainer) -> dict[str, int]:
    """What stays in memory all the time, in bytes per rank."""
    networks = trainer.networks
    trained = (*networks.trained.values(), *networks.heads.values())
    return {
        "teacher": _bytes(networks.teacher.parameters()),
        "students": _bytes(value for network in trained for value in network.parameters()),
        "moments": _bytes(trainer.moments()),
        "average": _bytes(trainer.average.parameters()),
        "buffers": _bytes({value for root in trainer._roots() for value in root.buffers()}),
    }


class _AnyPrompts:
    """Prompts of the right shapes; their values are never read."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def __len__(self) -> int:
        return 2

    def select(self, index: Tensor) -> Conditioning:
        return self.architecture.prompts(len(index))


class _AnyPairs(_AnyPrompts):
    """Pairs of the right shapes."""

    def select(self, index: Tensor) -> Any:
        latents = torch.empty(len(index), *self.architecture.latent_shape)
        return Pairs(latents, self.architecture.prompts(len(index)))


@torch.no_grad()  # DTensor's shards are views with a history else: slow to make
def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in local_tensors(tensors))
