"""How a run's networks come to their weights: from files, shard by shard, never whole beside."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.training.test_mixed_precision import (
    MIXED,
    PROMPTS,
    deep,
    peak_of,
    roles,
    state_of,
)
from tests.training.test_trainer import ALONE, config
from workbench.flow import NoiseSource
from workbench.methods import make_method
from workbench.teachers import PipelineTeacher, load_pipeline_teacher
from workbench.training.networks import DistillationInputs, build_networks, student_network
from workbench.training.parallel import local_tensors
from workbench.training.trainer import Trainer

LORA = 'training.lora={"rank": 4}'


def from_files(
    folder: Path, encoded: DistillationInputs
) -> tuple[PipelineTeacher, DistillationInputs]:
    """As a run loads it: neither text encoders nor the network's weights are in memory."""
    teacher = load_pipeline_teacher("files", folder, text=False, weights=False)
    network, prompts, uncond = teacher.network, encoded.prompts, encoded.uncond
    return teacher, DistillationInputs(
        network, teacher.latent_shape, prompts, uncond, weights=teacher.weights
    )


def in_memory(teacher: PipelineTeacher) -> DistillationInputs:
    prompts, uncond = teacher.encode(PROMPTS), teacher.uncond()
    return DistillationInputs(teacher.network, teacher.latent_shape, prompts, uncond)


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["copies", "adapters"])
def test_every_role_starts_as_stock_loading_gives_it(
    family_teacher: PipelineTeacher, more: tuple[str, ...]
) -> None:
    """Bit for bit, in float32, with buffers that no file holds."""
    loaded = in_memory(family_teacher)
    _, student = from_files(family_teacher.folder, loaded)
    x_t = NoiseSource(5).normal("start", 0, len(PROMPTS), student.latent_shape)
    inputs = (x_t, torch.tensor([1.0, 0.75, 0.5, 0.1]), family_teacher.encode(PROMPTS))
    stock = loaded.teacher
    with torch.no_grad():
        for name, network in roles(ALONE, student, *more).items():
            stock.distilled_guidance, own = network.distilled_guidance, stock.distilled_guidance
            expected = stock(*inputs)
            stock.distilled_guidance = own
            assert torch.equal(network(*inputs), expected), name


@pytest.mark.parametrize("lora", [(), (LORA,)], ids=["copies", "adapters"])
@pytest.mark.parametrize("precision", [(), (MIXED,)], ids=["fp32", "mixed"])
def test_generator_and_average_start_where_another_ended(
    lora: tuple[str, ...], precision: tuple[str, ...]
) -> None:
    """Sharded too, where the other's weights are whole; the fake score starts at the teacher."""
    source = deep()
    other = student_network(source.teacher, config(*lora))
    noise = NoiseSource(6)
    with torch.no_grad():
        for name, value in other.named_parameters():
            value.add_(noise.normal(name, 0, 1, value.shape)[0] / 20)
    trainer = Trainer(config(*lora, *precision), replace(source, generator=other), ALONE)
    expected = state_of(other)
    for network in (trainer.networks.generator, trainer.average):
        found = state_of(network)
        assert found.keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert not any(
        map(torch.equal, state_of(trainer.networks.fake_score).values(), expected.values())
    )


def bytes_of(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("more", [(), (MIXED,), (LORA, MIXED)], ids=["fp32", "mixed", "lora"])
def test_a_start_takes_no_more_than_what_it_leaves(
    teacher_folders: Callable[[str], Path], more: tuple[str, ...]
) -> None:
    """All roles and the average, and at no time a whole network beside them."""
    folder = teacher_folders("StableDiffusion3Pipeline")
    encoded = in_memory(load_pipeline_teacher("whole", folder))
    teacher, student = from_files(folder, encoded)
    settings = config(*more)
    method = make_method(settings.method, settings.generator)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        built = build_networks(student, settings, method, ALONE)
    (file,) = teacher.weights._component.glob("*.safetensors")
    mapped = file.stat().st_size  # counted as allocated, but the operating system's to give
    modules = [*built.trained.values(), built.average, built.teacher.module]
    kept = {
        value.data_ptr(): value.nbytes
        for module in modules
        for value in (*local_tensors(module.parameters()), *module.buffers())
    }
    # One layer at a time is cast, or its adapters drawn.
    assert peak_of(profiler) < sum(kept.values()) + mapped + 0.2 * bytes_of(encoded.teacher)
