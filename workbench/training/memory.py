"""How much memory a run takes on each rank, before anything is allocated.

The run's own networks and its method's own losses are gone through once, forward and backward, on
tensors without memory. So full copies or adapters, precision, checkpointing, guidance and the
order in which graphs live and die are the engine's, not a formula's. Sharding divides weights,
gradients, Adam's moments and the average by the ranks, as FSDP2 does.
Not counted: what a kernel takes inside itself, fragmentation, the CUDA context, evaluation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from workbench.flow.noise import NoiseSource
from workbench.methods import Batch, Method, Networks, Pairs, Phase, make_method
from workbench.teachers.architecture import Architecture
from workbench.teachers.base import VelocityNetwork
from workbench.training.config import RunConfig
from workbench.training.live_bytes import LiveBytes
from workbench.training.lora import AdapterNetwork
from workbench.training.parallel import Ranks
from workbench.training.roles import Roles, Student, build_roles

_FP32 = 4
_MOMENTS = 2  # Adam's
_FEW = 2  # blocks of a kind that are gone through; the others cost as much each
_AFTER_WARM_UPS = 10**12  # images after which a method's phases are all there
_PREFETCHED_BLOCKS = 2  # FSDP2 gathers the next block while one computes


@dataclass(frozen=True)
class Estimate:
    """Bytes a rank at the worst moment.

    Attributes:
        moment: when that is.
        parts: by what takes them.
    """

    moment: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class _Peak:
    """The worst moment of an update beyond what is always there, in bytes a rank."""

    gradients: int
    activations: int

    def plus(self, times: int, more: _Peak, than: _Peak) -> _Peak:
        return _Peak(
            self.gradients + times * (more.gradients - than.gradients),
            self.activations + times * (more.activations - than.activations),
        )


def estimate_memory(
    architecture: Architecture, config: RunConfig, ranks: int = 1, held: int = 0
) -> Estimate:
    """The worst moment of a run.

    Args:
        ranks: devices that share the weights; the micro-batch is each one's own.
        held: bytes of everything else that stays on the device (autoencoder, text encoders, ...).

    Raises:
        RequestError: the batch does not divide by the ranks, or the network refuses a setting.
    """
    method = make_method(config.method, config.generator)
    roles = _roles(architecture.network(), architecture, config, method)
    kept = {**_kept(roles, ranks), "held": held}
    moments = [_building(roles, kept, config, ranks)]
    for role, peak in _extrapolated(architecture, config, ranks).items():
        parts = {**kept, "gradients": peak.gradients, "activations": peak.activations}
        moments.append(Estimate(f"an update of {role}", parts))
    return max(moments, key=lambda each: each.total)


def least_memory(
    architecture: Architecture, config: RunConfig, ranks: int = 1, held: int = 0
) -> int:
    """The same without gradients and activations; quick to tell."""
    method = make_method(config.method, config.generator)
    roles = _roles(architecture.network(), architecture, config, method)
    kept = {**_kept(roles, ranks), "held": held}
    return max(sum(kept.values()), _building(roles, kept, config, ranks).total)


def checkpoint_bytes(architecture: Architecture, config: RunConfig) -> tuple[int, int]:
    """Size of one checkpoint (trained networks, their moments, the average), and of the average."""
    method = make_method(config.method, config.generator)
    kept = _kept(_roles(architecture.network(), architecture, config, method), 1)
    size = sum(kept[part] for part in ("students", "moments", "average", "buffers"))
    return size, kept["average"]


def _extrapolated(architecture: Architecture, config: RunConfig, ranks: int) -> dict[str, _Peak]:
    """Role -> peak of its update, from networks of few blocks.

    Blocks of one kind cost the same, each. So every kind is counted with two of its blocks, then
    with a third, and the difference stands for all the others.
    """
    kinds = Counter(_kind(block) for block in architecture.network().blocks())
    few = {kind: min(count, _FEW) for kind, count in kinds.items()}
    base = _simulated(architecture, config, ranks, few)
    peaks = dict(base)
    for kind, count in kinds.items():
        if count > _FEW:
            more = _simulated(architecture, config, ranks, {**few, kind: _FEW + 1})
            for role, peak in peaks.items():
                peaks[role] = peak.plus(count - _FEW, more[role], than=base[role])
    return peaks


def _kind(block: nn.Module) -> str:
    """Equal for blocks of the same layers and sizes."""
    return repr(block)


def _simulated(
    architecture: Architecture, config: RunConfig, ranks: int, blocks: Mapping[str, int]
) -> dict[str, _Peak]:
    """Role -> peak of its update, in a network with so many blocks of each kind."""
    local_batch = Ranks(0, ranks, torch.device("meta")).share(config.training.batch_size)
    micro_batch = min(config.training.micro_batch_size or local_batch, local_batch)
    method = make_method(config.method, config.generator)
    network = architecture.network()
    _keep_blocks(network, blocks)
    roles = _roles(network, architecture, config, method)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _give_fake_memory(roles)
        batch = _batch(architecture, micro_batch)
        networks = Networks(roles.teacher, roles.trained, architecture.prompts(1), roles.heads)
        rounds = 1 if micro_batch == local_batch else 2
        told = {phase.name: phase for phase in method.phases(_AFTER_WARM_UPS)}
        return {
            name: _update(phase, networks, batch, rounds, ranks) for name, phase in told.items()
        }


def _keep_blocks(network: VelocityNetwork, counts: Mapping[str, int]) -> None:
    left = dict(counts)
    for child in network.module.children():
        if isinstance(child, nn.ModuleList):
            for place, block in reversed(list(enumerate(child))):
                if left[_kind(block)] == 0:
                    del child[place]
                else:
                    left[_kind(block)] -= 1


def _roles(
    network: VelocityNetwork, architecture: Architecture, config: RunConfig, method: Method
) -> Roles:
    """The run's networks, as the engine builds them, on the meta device."""
    with torch.device("meta"):
        student = Student(network, architecture.latent_shape)
        return build_roles(student, config, method, Ranks(0, 1, torch.device("meta")))


def _kept(roles: Roles, ranks: int) -> dict[str, int]:
    """What is there all the time, in bytes a rank."""
    trained = sum(_bytes(network.parameters()) for network in roles.trained.values())
    kept = {
        "teacher": _bytes(roles.teacher.parameters()) // ranks,
        "students": trained // ranks,
        "moments": _MOMENTS * trained // ranks,
        "average": _bytes(roles.average.parameters()) // ranks,
        "buffers": sum(_bytes(root.buffers()) for root in _roots(roles)),
    }
    if ranks > 1:
        kept["gathered"] = _gathered(roles.teacher)
    return kept


def _gathered(network: VelocityNetwork) -> int:
    """What FSDP2 holds unsharded: the root's own weights, some blocks and a block's gradient."""
    blocks = [_bytes(block.parameters()) for block in network.blocks()]
    root = _bytes(network.parameters()) - sum(blocks)
    return root + (_PREFETCHED_BLOCKS + 1) * max(blocks, default=0)


def _building(roles: Roles, kept: Mapping[str, int], config: RunConfig, ranks: int) -> Estimate:
    """The pipeline's own network, in float32, is still there while it is copied for the roles.

    Each copy is whole before it is sharded. Adapters that are neither converted nor sharded work
    on the pipeline's own network.
    """
    source = _FP32 * sum(parameter.numel() for parameter in roles.teacher.parameters())
    training = config.training
    shared = training.lora is not None and training.precision != "bf16" and ranks == 1
    built = {name: size for name, size in kept.items() if name != "moments"}
    return Estimate(
        "building the networks",
        {**built, "source": 0 if shared else source, "whole copy": source if ranks > 1 else 0},
    )


def _update(phase: Phase, networks: Networks, batch: Batch, rounds: int, ranks: int) -> _Peak:
    """Peak of an update beyond what is kept, bytes a rank."""
    network = networks.module(phase.name)
    for name, other in (*networks.trained.items(), *networks.heads.items()):
        other.requires_grad_(name in phase.roles)
    everything = (networks.teacher, *networks.trained.values(), *networks.heads.values())
    existing = [tensor for each in everything for tensor in _tensors(each)]
    live = LiveBytes(existing)
    with live, _sharded_gradients(network, live, ranks):
        for _ in range(rounds):
            torch.autograd.backward(phase.loss(networks, batch).value)
    network.zero_grad(set_to_none=True)
    return _Peak(live.peak_kept, live.peak - live.peak_kept)


@contextmanager
def _sharded_gradients(network: nn.Module, live: LiveBytes, ranks: int) -> Iterator[None]:
    """A rank keeps its share of a gradient from the moment that the gradient is complete."""
    done: set[int] = set()

    def reduce(parameter: Tensor) -> None:
        if id(parameter) not in done:
            done.add(id(parameter))
            live.keep(parameter.nbytes, parameter.nbytes // ranks)

    parameters: Iterable[Any] = network.parameters()
    hooks = [parameter.register_post_accumulate_grad_hook(reduce) for parameter in parameters]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _batch(architecture: Architecture, count: int) -> Batch:
    """One evaluation of the generator: those before it keep nothing."""
    return Batch(
        start=0,
        count=count,
        cond=architecture.prompts(count),
        evaluations=1,
        noise=_AnyNoise(0),
        latent_shape=architecture.latent_shape,
        device=torch.device("cpu"),
        pairs=_AnyPairs(architecture),
    )


class _AnyPairs:
    """Pairs of the right shapes: their values are not looked at."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture

    def take(self, stream: str, start: int, count: int) -> Pairs:
        latents = torch.empty(count, *self.architecture.latent_shape)
        return Pairs(latents, self.architecture.prompts(count))


class _AnyNoise(NoiseSource):
    """Noise of the right shape: its values are not looked at."""

    def normal(self, stream: str, start: int, count: int, shape: Any) -> Tensor:
        return torch.empty(count, *shape)

    def uniform(self, stream: str, start: int, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.float64)


def _give_fake_memory(roles: Roles) -> None:
    """Meta tensors become fake CPU tensors, for which autocast exists; shared ones stay shared."""
    made: dict[int, Tensor] = {}
    for root in _roots(roles):
        for module in root.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for name, value in table.items():
                    if value is not None:
                        table[name] = _fake(value, made)


def _fake(value: Tensor, made: dict[int, Tensor]) -> Tensor:
    if id(value) not in made:
        fresh = torch.empty_like(value, device="cpu")
        if isinstance(value, nn.Parameter):
            fresh = nn.Parameter(fresh, requires_grad=value.requires_grad)
        made[id(value)] = fresh
        made[id(fresh)] = fresh
    return made[id(value)]


def _roots(roles: Roles) -> list[nn.Module]:
    """The modules that hold all weights, each once."""
    networks = (roles.teacher, *roles.trained.values(), *roles.heads.values(), roles.average)
    roots = [each.base if isinstance(each, AdapterNetwork) else each for each in networks]
    return list({id(root): root for root in roots}.values())


def _tensors(network: nn.Module) -> Iterable[Tensor]:
    root = network.base if isinstance(network, AdapterNetwork) else network
    return (*root.parameters(), *root.buffers())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
