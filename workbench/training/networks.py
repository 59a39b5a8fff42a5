"""The networks of a distillation: full copies of the teacher, or adapters over one copy of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.methods import Method
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import (
    ModuleWeights,
    Weights,
    fill,
    give_memory,
    on_meta,
    sharing_memory,
    stored,
    without_weights,
)
from workbench.training.config import AdamConfig, RunConfig
from workbench.training.ema import copy_weights
from workbench.training.lora import (
    AdapterBase,
    AdapterNetwork,
    merged_network,
)
from workbench.training.parallel import Ranks, Sharding, parallelize
from workbench.training.streams import PairDataset, PromptDataset

GENERATOR = "generator"
AVERAGE = "generator_ema"


@dataclass(frozen=True)
class DistillationInputs:
    """What is distilled from what: the teacher's network, where the roles start, the prompts.

    Attributes:
        start: where every role starts instead of at the teacher (a teacher without weights needs
            one).
        generator: where the generator and its average start instead; with ``training.lora`` a
            network with an adapter of the same settings.
        fingerprint: identifies the teacher's weights, the prompts and the pairs: a checkpoint
            continues with no others.
        pairs: image-text pairs, for a method that learns from them.
        weights: those of a teacher's network that has none in memory yet.
    """

    teacher: VelocityNetwork
    latent_shape: tuple[int, ...]
    prompts: PromptDataset | None = None
    uncond: Conditioning | None = None
    start: VelocityNetwork | None = None
    generator: VelocityNetwork | None = None
    fingerprint: str = ""
    pairs: PairDataset | None = None
    weights: Weights | None = None


@dataclass(frozen=True)
class Roles:
    """All networks of a run, on their device, sharded, with the right gradient flags.

    Attributes:
        copies: of all weights, over all ranks.
    """

    teacher: VelocityNetwork
    trained: Mapping[str, VelocityNetwork]
    average: VelocityNetwork
    heads: Mapping[str, nn.Module] = field(default_factory=dict)
    copies: int = 1


def build_networks(
    student: DistillationInputs, config: RunConfig, method: Method, ranks: Ranks
) -> Roles:
    """The teacher, each role that the method trains, the generator's average, and its heads.

    Every network is laid out without weights, sharded, and filled shard by shard, so that none is
    ever whole where it is not meant to be.

    Raises:
        RequestError: the network refuses ``training.lora`` or gradient checkpointing.
    """
    sharding = Sharding.of(ranks, compute_dtype(config), config.training.shards)
    build = _adapters if config.training.lora is not None else _full_copies
    roles = build(_Builder(student, config, sharding, ranks.device), method.roles)
    for network in (roles.trained[GENERATOR], roles.average):
        _guided(network, config)
    heads = _heads(roles.trained[GENERATOR], config, method, ranks)
    return replace(roles, heads=heads, copies=sharding.copies)


def compute_dtype(config: RunConfig) -> torch.dtype:
    """What a run's networks compute with."""
    return torch.float32 if config.training.precision == "fp32" else torch.bfloat16


def _heads(
    network: VelocityNetwork, config: RunConfig, method: Method, ranks: Ranks
) -> Mapping[str, nn.Module]:
    """The method's own modules, float32; their first weights depend on the run's seed alone."""
    if not method.heads:
        return {}
    heads, sharding = {}, Sharding.of(ranks, torch.float32, config.training.shards)
    for name, make in method.heads.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            heads[name] = make(network).to(ranks.device)
        parallelize(heads[name], (), sharding)
    return heads


def student_network(source: VelocityNetwork, config: RunConfig) -> VelocityNetwork:
    """A float32 network with the state of a run's ``generator_ema``, to load a checkpoint into.

    A full copy of ``source``; with ``training.lora`` an adapter over the source's weights, which
    are shared where they are float32 and not modified.
    """
    if config.training.lora is None:
        return _guided(copy.deepcopy(source).float().requires_grad_(False), config)
    base = AdapterBase(sharing_memory(source).float(), config.training.lora, [AVERAGE])
    return _guided(AdapterNetwork(base, AVERAGE), config)


@dataclass(frozen=True)
class _Builder:
    """Makes the networks of a run as its settings say."""

    student: DistillationInputs
    config: RunConfig
    sharding: Sharding
    device: torch.device
    buffers: dict[Tensor, Tensor] = field(default_factory=dict)

    def weights_of(self, network: VelocityNetwork) -> Weights:
        """Where a network's weights are: in memory, or in the teacher's files."""
        if not on_meta(network):
            return ModuleWeights(network.module)
        if self.student.weights is None:
            raise ValueError("A network without weights needs student.weights.")
        return self.student.weights

    def in_place(self, source: VelocityNetwork) -> bool:
        """Whether a frozen network can share the source's memory."""
        if self.sharding.mesh is not None or on_meta(source):
            return False
        first = next(source.parameters(), None)
        return first is None or (first.device == self.device and first.dtype == torch.float32)

    def frozen(self, source: VelocityNetwork) -> VelocityNetwork:
        """A network that is never trained; it shares the source's memory if possible."""
        if self.in_place(source):
            return self._prepared(sharing_memory(source), trainable=False)
        return self.copy(source, dtype=self.sharding.compute, trainable=False)

    def copy(
        self, source: VelocityNetwork, *, dtype: torch.dtype = torch.float32, trainable: bool
    ) -> VelocityNetwork:
        """A new network with the source's weights."""
        network = self._prepared(without_weights(source, dtype, self.buffers), trainable=trainable)
        parallelize(network, network.blocks(), self.sharding)
        give_memory(network, self.device)
        fill(stored(network.module), self.weights_of(source))
        return network

    def adapters(self, source: VelocityNetwork, names: Sequence[str]) -> AdapterBase:
        """The source, frozen in the type that it computes with, with adapters of these names."""
        lora, in_place = self.config.training.lora, self.in_place(source)
        assert lora is not None
        shell = sharing_memory(source) if in_place else None
        shell = shell or without_weights(source, self.sharding.compute, self.buffers)
        base = AdapterBase(shell, lora, names)
        self._prepared(base.network, trainable=False)
        if self.config.training.gradient_checkpointing:
            base.enable_gradient_checkpointing()
        if not in_place:
            parallelize(base, base.network.blocks(), self.sharding)
            give_memory(base, self.device)
            fill(base.own_weights(), self.weights_of(source))
        return base

    def _prepared(self, network: VelocityNetwork, *, trainable: bool) -> VelocityNetwork:
        network.evaluations = network.backward_evaluations = 0
        network.compute_dtype = self.sharding.compute if self.sharding.mesh else None
        network.requires_grad_(trainable)
        network.train(False)  # dropout would make phi and psi differ where they are equal
        if self.config.training.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        if self.config.training.compile:
            for block in network.blocks():
                block.compile()
        return network


def _full_copies(builder: _Builder, names: Sequence[str]) -> Roles:
    student = builder.student
    start = student.start or student.teacher
    first = student.generator or start
    if isinstance(first, AdapterNetwork):
        first = merged_network(first)
    teacher = builder.frozen(student.teacher)
    trained = {
        name: builder.copy(first if name == GENERATOR else start, trainable=True) for name in names
    }
    return Roles(teacher, trained, builder.copy(first, trainable=False))


def _adapters(builder: _Builder, names: Sequence[str]) -> Roles:
    student, config = builder.student, builder.config
    source = student.start or student.teacher
    base = builder.adapters(source, [*names, AVERAGE])
    off, average = AdapterNetwork(base, None), AdapterNetwork(base, AVERAGE)
    trained = {name: AdapterNetwork(base, name) for name in names}
    for name, network in trained.items():
        base.initialize(name, NoiseSource(config.seed))
        network.requires_grad_(True)
    if student.generator is not None:
        _load_adapter(trained[GENERATOR], student.generator)
    copy_weights(average, trained[GENERATOR])
    if student.start is None:
        return Roles(off, trained, average)
    return Roles(builder.frozen(student.teacher), trained, average)


def sharded_root(network: nn.Module) -> nn.Module:
    """The module that is sharded: the network, or the base that its adapter shares with others."""
    return network.base if isinstance(network, AdapterNetwork) else network


def _load_adapter(network: AdapterNetwork, start: VelocityNetwork) -> None:
    """Start from another adapter.

    Raises:
        RequestError: a full network, or an adapter of other settings.
    """
    if not isinstance(start, AdapterNetwork):
        raise RequestError(
            "A LoRA student starts at its teacher or at another LoRA student; the generator to "
            "start from is a full network. Set training.lora=null, or start from a LoRA run."
        )
    theirs, ours = start.base.settings, network.base.settings
    if theirs != ours:
        raise RequestError(
            f"The generator to start from has training.lora {theirs.model_dump_json()}, this run "
            f"{ours.model_dump_json()}: they must be equal."
        )
    fill(stored(network.adapter), ModuleWeights(start.adapter))


def _guided(generator: VelocityNetwork, config: RunConfig) -> VelocityNetwork:
    """The same generator, fed the run's guidance if the network takes guidance as an input."""
    if generator.distilled_guidance is not None:
        generator.distilled_guidance = config.generator.distilled_guidance
    return generator


def adam(network: nn.Module, settings: AdamConfig) -> torch.optim.Optimizer:
    """Adam with its moments at zero from the start.

    Else torch makes them when the first checkpoint asks for them, by a step that it counts: a run
    that writes checkpoints would begin with other updates than one that does not.
    """
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
