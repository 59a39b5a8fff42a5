"""The networks of a distillation: full copies of the teacher, or adapters over one copy of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.methods import Method
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.training.config import LoraConfig, RunConfig
from workbench.training.ema import averaged_copy
from workbench.training.lora import (
    AdapterBase,
    AdapterNetwork,
    adapter_network,
    merged_network,
)
from workbench.training.parallel import Ranks
from workbench.training.streams import PairRows, PromptRows

GENERATOR = "generator"
AVERAGE = "generator_ema"


@dataclass(frozen=True)
class Student:
    """What is distilled from what: the teacher's network, where the roles start, the prompts.

    Attributes:
        start: where every role starts instead of at the teacher (a teacher without weights needs
            one).
        generator: where the generator and its average start instead; with ``training.lora`` a
            network with an adapter of the same settings.
        fingerprint: identifies the teacher's weights, the prompts and the pairs: a checkpoint
            continues with no others.
        pairs: image-text pairs, for a method that learns from them.
    """

    teacher: VelocityNetwork
    latent_shape: tuple[int, ...]
    prompts: PromptRows | None = None
    uncond: Conditioning | None = None
    start: VelocityNetwork | None = None
    generator: VelocityNetwork | None = None
    fingerprint: str = ""
    pairs: PairRows | None = None


@dataclass(frozen=True)
class Roles:
    """All networks of a run, on their device, sharded, with the right gradient flags."""

    teacher: VelocityNetwork
    trained: Mapping[str, VelocityNetwork]
    average: VelocityNetwork
    heads: Mapping[str, nn.Module] = field(default_factory=dict)


def build_roles(student: Student, config: RunConfig, method: Method, ranks: Ranks) -> Roles:
    """The teacher, each role that the method trains, the generator's average, and its heads.

    Raises:
        RequestError: the network refuses ``training.lora`` or gradient checkpointing.
    """
    if config.training.lora is None:
        roles = _full_copies(student, config, method.roles, ranks)
    else:
        roles = _adapters(student, config, config.training.lora, method.roles, ranks)
    for network in (roles.trained[GENERATOR], roles.average):
        _guided(network, config)
    return replace(roles, heads=_heads(roles.trained[GENERATOR], config, method, ranks))


def _heads(
    network: VelocityNetwork, config: RunConfig, method: Method, ranks: Ranks
) -> Mapping[str, nn.Module]:
    """The method's own modules, float32; their first weights depend on the run's seed alone."""
    if not method.heads:
        return {}
    heads = {}
    for name, make in method.heads.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            heads[name] = make(network).to(ranks.device)
        ranks.shard(heads[name], ())
    return heads


def student_network(source: VelocityNetwork, config: RunConfig) -> VelocityNetwork:
    """A float32 network with the state of a run's ``generator_ema``, to load a checkpoint into.

    A full copy of ``source``; with ``training.lora`` an adapter over the source's weights, which
    are shared where they are float32 and not modified.
    """
    if config.training.lora is None:
        return _guided(averaged_copy(source), config)
    base = AdapterBase(source, config.training.lora, [AVERAGE])
    base.convert(next(source.parameters()).device, torch.float32)
    return _guided(adapter_network(source, base, AVERAGE), config)


def _full_copies(student: Student, config: RunConfig, names: Sequence[str], ranks: Ranks) -> Roles:
    start = student.start or student.teacher
    first = start if student.generator is None else merged_network(student.generator)
    teacher = _full_copy(student.teacher, config, ranks, trainable=False)
    trained = {
        name: _full_copy(first if name == GENERATOR else start, config, ranks, trainable=True)
        for name in names
    }
    average = averaged_copy(first).to(ranks.device)
    average.autocast_dtype = _autocast(config)
    ranks.shard(average, average.blocks())
    return Roles(teacher, trained, average)


def _full_copy(
    source: VelocityNetwork, config: RunConfig, ranks: Ranks, *, trainable: bool
) -> VelocityNetwork:
    network = copy.deepcopy(source).to(device=ranks.device, dtype=_storage(config))
    network.autocast_dtype = _autocast(config)
    network.evaluations = network.backward_evaluations = 0
    network.requires_grad_(trainable)
    network.train(False)  # dropout would make phi and psi differ where they are equal
    if config.training.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    ranks.shard(network, network.blocks())  # at once: whole ones may not fit together
    return network


def _adapters(
    student: Student, config: RunConfig, lora: LoraConfig, names: Sequence[str], ranks: Ranks
) -> Roles:
    source = student.start or student.teacher
    base = AdapterBase(source, lora, [*names, AVERAGE])
    base.convert(ranks.device, _storage(config))
    off = adapter_network(source, base, None)
    average = adapter_network(source, base, AVERAGE)
    trained = {name: adapter_network(source, base, name) for name in names}
    for name, network in trained.items():
        base.initialize(name, NoiseSource(config.seed))
        network.requires_grad_(True)
    if student.generator is not None:
        _load_adapter(trained[GENERATOR], student.generator)
    average.load_state_dict(trained[GENERATOR].state_dict())
    for network in (off, average, *trained.values()):
        # Adapters are float32 also over a bf16 base: only autocast makes the two meet.
        network.autocast_dtype = None if config.training.precision == "fp32" else torch.bfloat16
    if config.training.gradient_checkpointing:
        base.enable_gradient_checkpointing()
    ranks.shard(base, off.blocks())
    if student.start is None:
        return Roles(off, trained, average)
    return Roles(_full_copy(student.teacher, config, ranks, trainable=False), trained, average)


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
    network.load_state_dict(start.state_dict())


def _guided(generator: VelocityNetwork, config: RunConfig) -> VelocityNetwork:
    """The same generator, fed the run's own guidance where the network takes one as an input."""
    if generator.distilled_guidance is not None:
        generator.distilled_guidance = config.generator.distilled_guidance
    return generator


def _storage(config: RunConfig) -> torch.dtype:
    return torch.bfloat16 if config.training.precision == "bf16" else torch.float32


def _autocast(config: RunConfig) -> torch.dtype | None:
    return torch.bfloat16 if config.training.precision == "bf16-mixed" else None
