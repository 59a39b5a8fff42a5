"""The estimate of a run's memory against what the run's allocator hands out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from workbench.methods import METHODS, Pairs, Phase, method_type
from workbench.teachers import PipelineTeacher, load_pipeline_teacher
from workbench.teachers.architecture import Architecture
from workbench.teachers.digits import PROMPTS
from workbench.teachers.hub_catalog import HUB_TEACHERS
from workbench.training import memory
from workbench.training.config import RunConfig
from workbench.training.memory import estimate_memory, least_memory
from workbench.training.networks import Student
from workbench.training.overrides import with_overrides
from workbench.training.parallel import Ranks
from workbench.training.trainer import Trainer

RUN = ("training.batch_size=32", "training.kimg=0.128", "generator.steps=2")
PLANS = {
    "fp32": (),
    "micro-batches": ("training.micro_batch_size=8",),
    "bf16-mixed": ("training.precision=bf16-mixed",),
    "bf16": ("training.precision=bf16",),
    "checkpointing": ("training.gradient_checkpointing=true",),
    "guidance": ("method.guidance.eval_teacher=2", "method.guidance.train_fake=2"),
    "lora": ('training.lora={"rank": 4}', "training.precision=bf16-mixed"),
    "lora, checkpointing": ('training.lora={"rank": 4}', "training.gradient_checkpointing=true"),
}


class AnyPairs:
    """Latents with each of the prompts in turn."""

    def __init__(self, teacher: PipelineTeacher) -> None:
        self.cond = teacher.encode(PROMPTS)
        self.latents = torch.zeros(len(self), *teacher.latent_shape)

    def __len__(self) -> int:
        return len(PROMPTS)

    def select(self, index: Tensor) -> Pairs:
        return Pairs(self.latents[index], self.cond.select(index))


def measured_peak(teacher: PipelineTeacher, config: RunConfig) -> int:
    """The most bytes that torch's allocator had given out at once while a run trained."""
    prompts, uncond = teacher.encode(PROMPTS), teacher.uncond()
    pairs = AnyPairs(teacher) if config.data else None
    student = Student(teacher.network, teacher.latent_shape, prompts, uncond, pairs=pairs)
    gc.collect()  # garbage of earlier tests, freed meanwhile, would count as this run's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        Trainer(config, student, Ranks(0, 1, torch.device("cpu"))).train()
    events = profiler.profiler.kineto_results.events()
    allocations = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = peak = 0
    for _, size in allocations:
        alive += size
        peak = max(peak, alive)
    return peak


def architecture_of(name: str) -> Architecture:
    (teacher,) = (teacher for teacher in HUB_TEACHERS if teacher.name == name)
    return Architecture.of(teacher)


CASES = [("SanaPipeline", plan) for plan in PLANS] + [
    (family, plan)
    for family in ("SanaSprintPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
    for plan in ("bf16-mixed", "lora, checkpointing")
]
"""Every kind of plan once, and a few on every other family."""


@pytest.mark.parametrize(("family", "plan"), CASES)
def test_the_estimate_is_close_to_the_measured_peak(
    teacher_folders: Callable[[str], Path], family: str, plan: str
) -> None:
    teacher = load_pipeline_teacher(family, teacher_folders(family))
    config = with_overrides(RunConfig(), [*RUN, *PLANS[plan]])
    estimated = estimate_memory(Architecture.in_folder(teacher.folder), config).total
    assert estimated == pytest.approx(measured_peak(teacher, config), rel=0.15)


NO_WARM_UP = {
    "sid2a": (
        "method.adversarial.generator_start_kimg=0",
        "method.adversarial.adversarial_start_kimg=0",
    ),
    "scm": ("method.tangent_warmup_kimg=0",),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_estimate_is_close(digits_teacher: PipelineTeacher, name: str) -> None:
    """Of one plan: phases of two networks, heads, several updates, forward-mode derivatives."""
    data = ("data.source=digits",) if method_type(METHODS[name]()).learns_from_pairs else ()
    settings = (
        f"method.name={name}",
        *data,
        *NO_WARM_UP.get(name, ()),
        *RUN,
        "training.kimg=0.032",
    )
    config = with_overrides(RunConfig(), settings)
    estimated = estimate_memory(Architecture.in_folder(digits_teacher.folder), config).total
    assert estimated == pytest.approx(measured_peak(digits_teacher, config), rel=0.05)


FEW_OF_MANY = {
    "sana-0.6b-512": {"num_layers": 6},
    "sd3.5-medium": {"num_layers": 8, "dual_attention_layers": (0, 1, 2, 3)},
}


@pytest.mark.parametrize("name", FEW_OF_MANY)
def test_few_blocks_stand_for_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extrapolated from two and three blocks of a kind, or all gone through: the same."""
    full = architecture_of(name)
    architecture = replace(full, transformer={**full.transformer, **FEW_OF_MANY[name]})
    config = with_overrides(RunConfig(), ["training.batch_size=2", "training.precision=bf16-mixed"])
    extrapolated = estimate_memory(architecture, config).total
    monkeypatch.setattr(memory, "_FEW", 100)
    assert extrapolated == pytest.approx(estimate_memory(architecture, config).total, rel=0.01)


def test_ranks_share_weights_but_not_activations() -> None:
    architecture = architecture_of("sana-0.6b-512")
    one = with_overrides(RunConfig(), ["training.batch_size=1"])
    two = with_overrides(RunConfig(), ["training.batch_size=2"])
    alone, shared = estimate_memory(architecture, one), estimate_memory(architecture, two, ranks=2)
    for part in ("teacher", "students", "moments", "average"):
        assert shared.parts[part] == pytest.approx(alone.parts[part] / 2, rel=1e-6)
    assert 0 < shared.parts["gathered"] < alone.parts["teacher"]
    assert shared.parts["activations"] == pytest.approx(alone.parts["activations"], rel=0.02)


def test_weights_are_the_arithmetic_of_the_precision() -> None:
    (teacher,) = (t for t in HUB_TEACHERS if t.name == "sana-0.6b-512")
    settings = ["batch_size=1", "precision=bf16", "gradient_checkpointing=true"]
    config = with_overrides(RunConfig(), [f"training.{setting}" for setting in settings])
    parts = estimate_memory(Architecture.of(teacher), config).parts
    assert parts["teacher"] == 2 * teacher.parameters
    assert parts["students"] == 4 * teacher.parameters
    assert parts["moments"] == 8 * teacher.parameters
    assert parts["average"] == 4 * teacher.parameters
    assert parts["gradients"] == pytest.approx(2 * teacher.parameters, rel=0.05)


def test_more_updates_of_the_fake_score_are_one_after_the_other(
    digits_teacher: PipelineTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need no more memory, and the estimate no more time."""
    architecture, gone_through = Architecture.in_folder(digits_teacher.folder), []
    update = memory._update

    def counted(phase: Phase, *rest: Any) -> Any:
        gone_through.append(phase.name)
        return update(phase, *rest)

    monkeypatch.setattr(memory, "_update", counted)
    totals, counts = [], []
    for updates in (1, 7):
        settings = [*RUN, f"method.fake_score_updates={updates}"]
        totals.append(estimate_memory(architecture, with_overrides(RunConfig(), settings)).total)
        counts.append(len(gone_through))
    assert totals[0] == totals[1]
    assert counts[1] == 2 * counts[0]


def test_building_holds_the_source_and_a_whole_copy() -> None:
    """Until adapters or copies are there, so is what they are made from."""
    architecture = architecture_of("sana-0.6b-512")
    source = 4 * 591_747_872
    lora = with_overrides(RunConfig(), ["training.lora={}", "training.batch_size=8"])
    roles = least_memory(architecture, lora)
    assert source < roles < 2 * source  # adapters work on the source itself
    assert least_memory(architecture, lora, ranks=8) > 2 * source
    assert least_memory(architecture, lora, ranks=8, held=1000) == 1000 + least_memory(
        architecture, lora, ranks=8
    )
