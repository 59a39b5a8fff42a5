"""The estimate of a run's memory against what the run's allocator hands out."""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.memory import COLUMNS, FULL, LORA, Row
from workbench.methods import METHODS, Pairs, method_type
from workbench.teachers.architecture import Architecture
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.families import FAMILIES
from workbench.teachers.hub_catalog import find_hub_teacher
from workbench.training import memory
from workbench.training.config import RunConfig
from workbench.training.launch import launch
from workbench.training.memory import checkpoint_bytes, estimate_memory, least_memory
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.parallel import Ranks, fake_ranks, full_state_dict, init_distributed
from workbench.training.trainer import Trainer

CPU = torch.device("cpu")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "gpu.md"
RUN = ("training.batch_size=2", "generator.steps=2")
MIXED = "training.precision=bf16-mixed"
CHECKPOINTING = "training.gradient_checkpointing=true"
ADAPTERS = 'training.lora={"rank": 16}'

SANA = {
    "num_layers": 8,
    "num_attention_heads": 8,
    "num_cross_attention_heads": 8,
    "cross_attention_head_dim": 32,
    "cross_attention_dim": 256,
    "caption_channels": 64,
    "sample_size": 8,
}
WIDE: dict[str, tuple[str, Mapping[str, Any], tuple[int, ...], Mapping[str, tuple[int, ...]]]] = {
    "sana": (
        "sana-0.6b-512",
        SANA,
        (32, 8, 8),
        {"embeds": (20, 64), "mask": (20,)},
    ),
    "sprint": (
        "sana-sprint-0.6b",
        SANA,
        (32, 8, 8),
        {"embeds": (20, 64), "mask": (20,)},
    ),
    "sd3": (
        "sd3.5-medium",
        {
            "num_layers": 8,
            "num_attention_heads": 4,
            "joint_attention_dim": 64,
            "caption_projection_dim": 256,
            "pooled_projection_dim": 32,
            "pos_embed_max_size": 16,
            "dual_attention_layers": (0, 1, 2, 3),
        },
        (16, 16, 16),
        {"embeds": (20, 64), "pooled": (32,)},
    ),
    "flux": (
        "flux.1-dev-512",
        {
            "num_layers": 3,
            "num_single_layers": 5,
            "num_attention_heads": 2,
            "joint_attention_dim": 64,
            "pooled_projection_dim": 32,
        },
        (16, 16, 16),
        {"embeds": (20, 64), "pooled": (32,)},
    ),
}
"""Eight blocks of 256 channels of every family: its catalog entry, what is smaller, shapes."""


def architecture_of(name: str) -> Architecture:
    teacher = find_hub_teacher(name)
    assert teacher is not None
    return Architecture.of(teacher)


def wide(family: str, **changes: Any) -> Architecture:
    name, smaller, latent_shape, conditioning = WIDE[family]
    full = architecture_of(name)
    return replace(
        full,
        transformer={**full.transformer, **smaller, **changes},
        latent_shape=latent_shape,
        conditioning=conditioning,
    )


class AnyPairs:
    """Two latents, each with its prompt."""

    def __init__(self, architecture: Architecture) -> None:
        self.cond = architecture.prompts(len(self))
        self.latents = torch.zeros(len(self), *architecture.latent_shape)

    def __len__(self) -> int:
        return 2

    def select(self, index: Tensor) -> Pairs:
        return Pairs(self.latents[index], self.cond.select(index))


def network_of(architecture: Architecture) -> VelocityNetwork:
    """The genuine diffusers network, of random weights."""
    kind = getattr(diffusers, architecture.transformer_class)
    module = kind.from_config(dict(architecture.transformer))
    family = FAMILIES[architecture.pipeline_class]
    return family.network(SimpleNamespace(transformer=module), {"guidance_scale": 1.0})


def trainer_of(architecture: Architecture, config: RunConfig, ranks: Ranks) -> Trainer:
    network = network_of(architecture)
    prompts, uncond = architecture.prompts(2), architecture.prompts(1)
    pairs = AnyPairs(architecture) if config.data else None
    student = DistillationInputs(network, architecture.latent_shape, prompts, uncond, pairs=pairs)
    return Trainer(config, student, ranks)


def measured_peak(architecture: Architecture, config: RunConfig, ranks: Ranks) -> int:
    """The most bytes that torch's allocator had given out at once during two iterations.

    Not before: this trainer starts from a network in memory, a run from files.
    """
    gc.collect()  # garbage of earlier tests, freed meanwhile, would count as this run's
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer = trainer_of(architecture, config, ranks)
        gc.collect()  # the source of its networks
        with record_function("iterations"):
            trainer.train_step()
            trainer.train_step()
    events = profiler.profiler.kineto_results.events()
    (begun,) = (event.start_ns() for event in events if event.name() == "iterations")
    allocations = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = peak = 0
    for time, size in allocations:
        alive += size
        if time >= begun:
            peak = max(peak, alive)
    return peak


@pytest.fixture(autouse=True)
def _no_group_left() -> Any:
    """A run of one rank in mixed precision opens a process group, which other tests count on."""
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def assert_close(architecture: Architecture, *settings: str) -> None:
    config = with_overrides(RunConfig(), [*RUN, *settings])
    estimated = estimate_memory(architecture, config).total
    measured = measured_peak(architecture, config, Ranks(0, 1, CPU))
    print(f"estimated / measured: {estimated} / {measured} = {estimated / measured - 1:+.1%}")
    assert estimated == pytest.approx(measured, rel=0.15)


PLANS = {
    "fp32": (),
    "micro-batches": ("training.micro_batch_size=1",),
    "mixed, checkpointing": (MIXED, CHECKPOINTING),
    "one sample": (MIXED, CHECKPOINTING, "training.batch_size=1"),
    "guidance": ("method.guidance.eval_teacher=2", "method.guidance.train_fake=2"),
    "lora": (ADAPTERS,),
    "lora, mixed, checkpointing": (ADAPTERS, MIXED, CHECKPOINTING),
    "share_rollout": ("method.share_rollout=true", CHECKPOINTING),
}


def test_the_estimate_of_eight_blocks_is_close_to_the_measured_peak() -> None:
    assert_close(wide("sana"), *PLANS["mixed, checkpointing"])


FEW_BLOCKS = {
    "sprint": {"num_layers": 2},
    "sd3": {"num_layers": 2, "dual_attention_layers": (0,)},
    "flux": {"num_layers": 1, "num_single_layers": 2},
}


@pytest.mark.parametrize("family", FEW_BLOCKS)
def test_the_other_families_are_close(family: str) -> None:
    assert_close(wide(family, **FEW_BLOCKS[family]), *PLANS["mixed, checkpointing"])


def test_adapters_of_flux_are_close() -> None:
    assert_close(wide("flux", **FEW_BLOCKS["flux"]), *PLANS["lora, mixed, checkpointing"])


@pytest.mark.parametrize("plan", PLANS)
def test_every_plans_estimate_is_close(plan: str) -> None:
    assert_close(wide("sana", num_layers=2), *PLANS[plan])


NO_WARM_UP = {
    "sid2a": (
        "method.adversarial.generator_start_kimg=0",
        "method.adversarial.adversarial_start_kimg=0",
    ),
    "scm": ("method.tangent_warmup_kimg=0",),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_methods_estimate_is_close(name: str) -> None:
    """Phases of two networks, heads, several updates, forward-mode derivatives."""
    data = ("data.source=digits",) if method_type(METHODS[name]()).needs_pairs else ()
    settings = (f"method.name={name}", *data, *NO_WARM_UP.get(name, ()))
    assert_close(wide("sana", num_layers=2), *settings)


def peak_of_a_rank(family: str, settings: tuple[str, ...]) -> int:
    with init_distributed() as ranks:
        return measured_peak(wide(family), with_overrides(RunConfig(), settings), ranks)


def test_the_estimate_of_a_rank_among_others_is_a_near_bound() -> None:
    """Two ranks share weights, moments and gradients; gloo's buffers, which vary, come on top."""
    settings = (*RUN, MIXED, CHECKPOINTING)
    estimated = estimate_memory(wide("sana"), with_overrides(RunConfig(), settings), 2).total
    measured = launch(peak_of_a_rank, 2, "sana", settings)
    print(f"estimated / measured: {estimated} / {measured} = {estimated / measured - 1:+.1%}")
    assert estimated < 1.02 * measured
    assert measured < 1.5 * estimated


@pytest.mark.parametrize("family", ["sana"])
def test_few_blocks_stand_for_all(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extrapolated from three and four blocks of a kind, or all gone through: the same."""
    config = with_overrides(RunConfig(), [*RUN, MIXED, CHECKPOINTING])
    few = estimate_memory(wide(family), config, 2)
    monkeypatch.setattr(memory, "_FEW", 100)
    whole = estimate_memory(wide(family), config, 2)
    assert few.total == pytest.approx(whole.total, rel=0.01)
    for part in ("teacher", "students", "moments", "average", "buffers"):
        assert few.parts[part] == whole.parts[part]


def test_ranks_share_weights_but_not_activations() -> None:
    settings = (MIXED, CHECKPOINTING, "training.micro_batch_size=1")
    ones, shared = (
        estimate_memory(
            wide("sana", num_layers=2),
            with_overrides(RunConfig(), [*settings, f"training.batch_size={n}"]),
            n,
        ).parts
        for n in (1, 4)
    )
    for part in ("teacher", "students", "moments", "average"):
        assert shared[part] == pytest.approx(ones[part] / 4, rel=0.01)
    assert shared["activations"] > ones["activations"]


def test_copies_on_other_nodes_change_nothing_on_a_rank() -> None:
    def parts(ranks: int) -> Mapping[str, int]:
        settings = (MIXED, CHECKPOINTING, "training.shards=2", f"training.batch_size={ranks}")
        config = with_overrides(RunConfig(), settings)
        return estimate_memory(wide("sana", num_layers=2), config, ranks).parts

    two, eight = parts(2), parts(8)
    for part in ("teacher", "students", "moments", "average"):
        assert two[part] == eight[part]
    assert eight["activations"] == pytest.approx(two["activations"], rel=0.01)


def test_weights_are_the_arithmetic_of_the_precision() -> None:
    architecture = wide("sd3", num_layers=3)
    count = sum(p.numel() for p in architecture.network().parameters())
    config = with_overrides(RunConfig(), [*RUN, MIXED, CHECKPOINTING])
    parts = estimate_memory(architecture, config).parts
    assert parts["teacher"] == 2 * count
    assert parts["students"] == 8 * count
    assert parts["moments"] == pytest.approx(16 * count, rel=1e-3)
    assert parts["average"] == 4 * count
    assert parts["buffers"] == 4 * 16 * 16 * 256  # positions, which all networks share
    kept = sum(parts[part] for part in ("teacher", "students", "moments", "average", "buffers"))
    assert least_memory(architecture, config, held=1000) == kept + 1000
    assert checkpoint_bytes(architecture, config) == (kept - parts["teacher"], parts["average"])


def test_a_whole_gradient_is_held_only_between_micro_batches_without_reducing() -> None:
    def total(every: str) -> int:
        settings = (MIXED, CHECKPOINTING, "training.batch_size=8", "training.micro_batch_size=1")
        config = with_overrides(
            RunConfig(), [*settings, f"training.sync_every_micro_batch={every}"]
        )
        return estimate_memory(architecture, config, 4).total

    architecture = wide("sana", num_layers=3)
    count = sum(p.numel() for p in architecture.network().parameters())
    surplus = 3 / 4 * 4 * count  # in float32, beside this rank's quarter
    # Less where the worst moment without it is one of activations.
    assert 0.6 * surplus < total("false") - total("true") < 1.15 * surplus


def test_more_updates_of_the_fake_score_are_one_after_the_other() -> None:
    """They need no more memory."""
    totals = [
        estimate_memory(
            wide("sana", num_layers=2),
            with_overrides(RunConfig(), [*RUN, f"method.fake_score_updates={updates}"]),
        ).total
        for updates in (1, 3)
    ]
    assert totals[1] == pytest.approx(totals[0], rel=0.01)


def test_an_estimate_leaves_a_trainer_alone() -> None:
    """It is made in a process group of its own, and says so where that cannot be opened."""
    architecture = wide("sana", num_layers=1)
    config = with_overrides(RunConfig(), [*RUN, MIXED])
    averages = []
    for between in (False, True):
        torch.manual_seed(0)
        trainer = trainer_of(architecture, config, Ranks(0, 1, CPU))
        trainer.train_step()
        if between:
            estimate_memory(architecture, config, 2)
        trainer.train_step()
        averages.append(full_state_dict(trainer.average))
    for name, value in averages[0].items():
        assert torch.equal(value, averages[1][name]), name


def test_no_estimate_takes_the_group_of_several_ranks_away() -> None:
    with fake_ranks(2):
        with pytest.raises(RuntimeError, match="2 ranks"), fake_ranks(4):
            pass
        assert dist.get_world_size() == 2


def stored_rows() -> dict[tuple[str, str, int], list[float]]:
    """The table of docs/gpu.md: (teacher, trained, ranks) -> its numbers, GiB."""
    rows = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 + len(COLUMNS) + 1 and re.fullmatch(r"`.*`", cells[0]):
            rows[cells[0].strip("`"), cells[1], int(cells[2])] = [float(c) for c in cells[3:]]
    return rows


@pytest.mark.parametrize(
    ("name", "trained", "ranks"),
    [("sana-0.6b-512", FULL, 8), ("flux.1-dev-512", LORA, 1)],
)
def test_the_table_is_that_of_the_docs(name: str, trained: str, ranks: int) -> None:
    """A change of the engine that changes its memory changes docs/gpu.md: benchmarks/memory.py."""
    teacher = find_hub_teacher(name)
    assert teacher is not None
    estimate = Row(teacher, trained, ranks).estimate()
    parts = [*(estimate.parts[column] for column in (*COLUMNS, "held")), estimate.total]
    told = stored_rows()[name, trained, ranks]
    for part, number in zip(parts, told, strict=True):
        assert part / 2**30 == pytest.approx(number, rel=0.01, abs=0.006)
