from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor

from tests.helpers import SmallVelocity, labels
from tests.training.test_parallel import Blocks, BlockVelocity, Losses, assert_close
from tests.training.test_trainer import ALONE, Recorder, config
from workbench import distill as distil_own
from workbench.data.bundled import PROMPTS as DIGIT_PROMPTS
from workbench.errors import InterruptedRunError, RequestError
from workbench.flow import NoiseSource
from workbench.methods import Batch, FewStepSampler, GeneratorConfig, Pairs, make_method
from workbench.teachers import PipelineTeacher, load_pipeline_teacher, sample_teacher
from workbench.teachers.base import Conditioning, OwnVelocity, VelocityNetwork
from workbench.training.checkpoint import load_modules
from workbench.training.config import AdamConfig, LoraConfig, RunConfig, TrainingConfig
from workbench.training.events import StopFlag
from workbench.training.launch import launch
from workbench.training.lora import AdapterNetwork, merged_network, save_adapter
from workbench.training.networks import DistillationInputs, Roles, build_networks, student_network
from workbench.training.parallel import Ranks, init_distributed, local_tensors
from workbench.training.trainer import Trainer

LORA = 'training.lora={"rank":4,"scale":2}'
PROMPTS = ["the digit 7", "a handwritten two", "zero written by hand", "the digit 1"]
METHOD = make_method(RunConfig().method, GeneratorConfig())
TRAINED = METHOD.roles


def student_of(teacher: PipelineTeacher) -> DistillationInputs:
    return DistillationInputs(
        teacher.network, teacher.latent_shape, teacher.encode(PROMPTS), teacher.uncond()
    )


def lora_roles(student: DistillationInputs, *overrides: str) -> Roles:
    return build_networks(student, config(LORA, *overrides), METHOD, ALONE)


def batch(teacher: PipelineTeacher) -> tuple[Tensor, Tensor, Conditioning]:
    x = NoiseSource(3).normal("lora", 0, len(PROMPTS), teacher.latent_shape)
    return x, torch.tensor([0.9, 0.6, 0.35, 0.1]), teacher.encode(PROMPTS)


def randomize(network: VelocityNetwork, stream: str) -> None:
    """Weights that a training could have made: no matrix of zeros."""
    noise = NoiseSource(4)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.add_(0.05 * noise.normal(f"{stream}/{name}", 0, 1, value.shape)[0])


def snapshot(network: VelocityNetwork) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@torch.no_grad()
def test_every_role_starts_as_the_teacher(family_teacher: PipelineTeacher) -> None:
    roles = lora_roles(student_of(family_teacher))
    inputs = batch(family_teacher)
    expected = family_teacher.network(*inputs)
    for network in (roles.teacher, roles.average, *roles.trained.values()):
        assert torch.equal(network(*inputs), expected)
        assert network.evaluations == len(PROMPTS)
    # Each has its own adapter, whoever was on before; the teacher never has one.
    for name, network in {**roles.trained, "average": roles.average}.items():
        randomize(network, name)
    answers = [network(*inputs) for network in (*roles.trained.values(), roles.average)]
    again = [network(*inputs) for network in (roles.average, *reversed(roles.trained.values()))]
    assert all(torch.equal(a, b) for a, b in zip(answers, reversed(again), strict=True))
    for i, answer in enumerate(answers):
        for other in (*answers[:i], expected):
            assert (answer - other).abs().max() > 1e-2
    for network in (roles.teacher, family_teacher.network):
        assert torch.equal(network(*inputs), expected)
    # Outside of a role's own forward all adapters are off.
    roles.trained["generator"](*inputs)
    assert torch.equal(roles.trained["generator"].base.network(*inputs), expected)


def stock_peft(network: VelocityNetwork, role: VelocityNetwork) -> tuple[VelocityNetwork, Any]:
    """A full copy with one adapter that is always on, made by diffusers and peft themselves."""
    import peft

    assert isinstance(role, AdapterNetwork)
    separate = copy.deepcopy(network)
    module: Any = separate.module
    targets = [name.removesuffix(".lora_A.weight") for name in role.adapter.state_dict()]
    module.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets), "default")
    peft.set_peft_model_state_dict(module, role.adapter.state_dict(), "default")
    return separate, lambda: {
        name.replace(".default", ""): value.grad
        for name, value in module.named_parameters()
        if ".lora_" in name
    }


def entangled_loss(
    generator: VelocityNetwork,
    fake_score: VelocityNetwork,
    teacher: VelocityNetwork,
    inputs: tuple[Tensor, Tensor, Conditioning],
) -> Tensor:
    """Every network's gradient passes through others that are called after it."""
    x, t, cond = inputs
    x_g = x - generator(x, t, cond)
    gap = fake_score(x_g, 1 - t, cond) - teacher(x_g, 1 - t, cond)
    return gap.square().sum() + generator(x_g, t, cond).square().sum()


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_gradients_equal_those_of_separate_copies(
    family_teacher: PipelineTeacher, checkpointing: bool
) -> None:
    flag = json.dumps(checkpointing)
    roles = lora_roles(student_of(family_teacher), f"training.gradient_checkpointing={flag}")
    for name, network in roles.trained.items():
        randomize(network, name)
    inputs = batch(family_teacher)
    separate = {
        name: stock_peft(family_teacher.network, role) for name, role in roles.trained.items()
    }
    expected = entangled_loss(
        separate["generator"][0], separate["fake_score"][0], family_teacher.network, inputs
    )
    expected.backward()
    loss = entangled_loss(
        roles.trained["generator"], roles.trained["fake_score"], roles.teacher, inputs
    )
    with torch.no_grad():  # another adapter is used between forward and backward
        roles.average(*inputs)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, role in roles.trained.items():
        sizes = []
        for key, gradient in separate[name][1]().items():
            ours = role.get_parameter(f"adapter.{key}").grad
            sizes.append(float(gradient.abs().max()))
            torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5 * sizes[-1])
        # Some layers of SD3's last text stream reach nothing; most must reach the loss.
        assert sum(size > 0 for size in sizes) > 0.8 * len(sizes)
    assert all(value.grad is None for value in roles.average.parameters())
    assert all(value.grad is None for value in roles.teacher.parameters())


def test_only_its_own_weights_are_a_roles_parameters(family_teacher: PipelineTeacher) -> None:
    roles = lora_roles(student_of(family_teacher))
    networks = {**roles.trained, "average": roles.average}
    owned = {name: {id(p) for p in n.parameters()} for name, n in networks.items()}
    assert not owned["generator"] & owned["fake_score"]
    assert not owned["generator"] & owned["average"]
    assert {name: {p.requires_grad for p in n.parameters()} for name, n in networks.items()} == {
        "generator": {True},
        "fake_score": {True},
        "average": {False},
    }
    assert not any(value.requires_grad for value in roles.teacher.parameters())
    assert equal(snapshot(roles.teacher), snapshot(family_teacher.network))


def test_memory_holds_one_base(family_teacher: PipelineTeacher) -> None:
    """The base of all networks is the pipeline's own memory; only adapters are new."""
    trainer = Trainer(config(LORA), student_of(family_teacher), ALONE)
    networks = (trainer.networks.teacher, *trainer.networks.trained.values(), trainer.average)
    held = {p.data_ptr(): p.numel() for n in networks for p in n.module.parameters()}
    base = {p.data_ptr(): p.numel() for p in family_teacher.network.parameters()}
    adapters = [p.numel() for n in networks[1:] for p in n.parameters()]
    assert base.items() <= held.items()
    assert sum(held.values()) == sum(base.values()) + sum(adapters)
    assert sum(adapters) < sum(base.values())
    assert all(id(network.module) == id(trainer.average.module) for network in networks)
    own = {id(p) for o in trainer.optimizers.values() for g in o.param_groups for p in g["params"]}
    assert own == {id(p) for n in trainer.networks.trained.values() for p in n.parameters()}


def training(*overrides: str, kimg: float = 0.08) -> RunConfig:
    return config(LORA, *overrides, kimg=kimg)


def test_the_base_never_changes(digits_teacher: PipelineTeacher) -> None:
    before = snapshot(digits_teacher.network)
    state = copy.deepcopy(digits_teacher.network.state_dict())
    trainer = Trainer(training(), student_of(digits_teacher), ALONE)
    starts = {name: snapshot(network) for name, network in trainer.networks.trained.items()}
    trainer.train()
    for held in (digits_teacher.network, trainer.networks.teacher):
        assert equal(snapshot(held), before)
    assert equal(digits_teacher.network.state_dict(), state)
    for name, network in trainer.networks.trained.items():
        now = snapshot(network)
        assert not any(torch.equal(now[k], starts[name][k]) for k in now), name
    assert not equal(snapshot(trainer.average), starts["generator"])


def test_resuming_is_bit_exact(digits_teacher: PipelineTeacher, tmp_path: Path) -> None:
    stop, points, more = StopFlag(), Recorder(), Recorder()

    class StopThere(Recorder):
        def on_iteration(self, progress: Any) -> None:
            stop.requested = progress.nimg >= 48

    student = student_of(digits_teacher)
    whole = Trainer(training(kimg=0.112), student, ALONE, tmp_path / "whole", points)
    whole.train()
    first = StopThere()
    with pytest.raises(InterruptedRunError):
        Trainer(training(kimg=0.112), student, ALONE, tmp_path / "cut", first, stop=stop).train()
    resumed = Trainer(training(kimg=0.112), student, ALONE, tmp_path / "cut", more)
    resumed.train()
    for name in TRAINED:
        assert equal(
            snapshot(resumed.networks.trained[name]), snapshot(whole.networks.trained[name])
        )
    assert equal(snapshot(resumed.average), snapshot(whole.average))
    assert {**first.points, **more.points} == points.points
    with pytest.raises(RequestError, match="another recipe"):
        Trainer(config(kimg=0.112), student, ALONE, tmp_path / "cut").train()


def stored_elements(checkpoint: Path) -> int:
    stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata.values()
    return sum(item.size.numel() for item in stored if isinstance(item, TensorStorageMetadata))


def folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_checkpoints_hold_adapters_and_serve_inference(
    family_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    settings = training(kimg=0.016)
    trainer = Trainer(settings, student_of(family_teacher), ALONE, tmp_path / "lora")
    trainer.train()
    newest = max((tmp_path / "lora").glob("nimg-*"))
    adapter = sum(p.numel() for p in trainer.average.parameters())
    # Generator, fake score, average, two moments of the first two and their step counts.
    steps = 2 * len(trainer.average.state_dict())
    assert stored_elements(newest) == 7 * adapter + steps
    assert folder_size(newest) < 4 * 7 * family_teacher.parameters
    loaded = student_network(family_teacher.network, settings)
    load_modules(newest, {"generator_ema": loaded})
    inputs = batch(family_teacher)
    with torch.no_grad():
        expected = trainer.average(*inputs)
        assert torch.equal(loaded(*inputs), expected)
        assert (family_teacher.network(*inputs) - expected).abs().max() > 1e-4
        # A full run's student has the structure of its checkpoint too.
        full = student_network(family_teacher.network, config())
        assert torch.equal(full(*inputs), family_teacher.network(*inputs))
    assert equal(snapshot(full), snapshot(family_teacher.network))
    assert not {p.data_ptr() for p in full.parameters()} & {
        p.data_ptr() for p in family_teacher.network.parameters()
    }


@torch.no_grad()
def test_merged_and_saved_students_are_the_student(
    family_teacher: PipelineTeacher, teacher_folders: Any, tmp_path: Path
) -> None:
    """Fused in by us, and loaded, then fused, by the stock pipeline, scale included."""
    trained = lora_roles(student_of(family_teacher)).trained["generator"]
    randomize(trained, "trained")
    inputs = batch(family_teacher)
    expected = trained(*inputs)
    full = merged_network(trained)
    torch.testing.assert_close(full(*inputs), expected, atol=1e-5, rtol=0)
    assert full.module.state_dict().keys() == family_teacher.network.module.state_dict().keys()
    assert type(full) is type(family_teacher.network)
    assert torch.equal(trained(*inputs), expected)

    save_adapter(trained, tmp_path, type(family_teacher.pipeline))
    assert [file.name for file in tmp_path.iterdir()] == ["pytorch_lora_weights.safetensors"]
    stock = load_pipeline_teacher("stock", family_teacher.folder)
    stock.pipeline.load_lora_weights(tmp_path)
    (settings,) = stock.pipeline.transformer.peft_config.values()
    assert (settings.r, settings.lora_alpha) == (4, 8)
    torch.testing.assert_close(stock.network(*inputs), expected, atol=1e-5, rtol=0)
    stock.pipeline.fuse_lora()
    stock.pipeline.unload_lora_weights()
    torch.testing.assert_close(stock.network(*inputs), expected, atol=1e-5, rtol=0)


def test_mixed_precision_keeps_adapters_in_float32_over_a_bfloat16_base(
    digits_teacher: PipelineTeacher,
) -> None:
    before = snapshot(digits_teacher.network)
    inputs = batch(digits_teacher)
    exact = digits_teacher.network(*inputs)
    settings = training("training.precision=bf16-mixed", kimg=0.016)
    trainer = Trainer(settings, student_of(digits_teacher), ALONE)
    with torch.no_grad():
        expected = trainer.networks.teacher(*inputs)
        assert torch.equal(trainer.average(*inputs), expected)
    assert 0 < (expected - exact).abs().max() < 0.2
    trainer.train()
    assert {p.dtype for p in trainer.networks.teacher.parameters()} == {torch.bfloat16}
    for network in (*trainer.networks.trained.values(), trainer.average):
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert all(p.isfinite().all() for p in local_tensors(network.parameters()))
    assert equal(snapshot(digits_teacher.network), before)


class Checkpointable(Blocks):
    """Recomputes its blocks, as diffusers transformers do."""

    function: Any = None

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Any = None) -> None:
        self.function = gradient_checkpointing_func

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        for block in self.blocks:
            y = self.function(block, x) if self.function and torch.is_grad_enabled() else block(x)
            x = x + torch.tanh(y)
        return self.outer(x)


CASES = [
    (targets, checkpointing)
    for targets in ("blocks", ("inner", "blocks.1", "outer"))
    for checkpointing in (False, True)
]


@dataclass
class Seen:
    """What one rank saw of one case."""

    losses: list[tuple[int, str, float]]
    shares: list[int]
    base_change: float


def distil_case(ranks: Ranks, case: tuple[Any, bool], folder: Path, kimg: float) -> Seen:
    losses = Losses()
    network = BlockVelocity(Checkpointable())
    lora = LoraConfig(rank=2, scale=2, targets=case[0])
    settings = config(
        f"training.lora={lora.model_dump_json()}",
        f"training.gradient_checkpointing={json.dumps(case[1])}",
        "schedule.log_kimg=0.016",
        kimg=kimg,
    )
    trainer = Trainer(
        settings, DistillationInputs(network, (3,), labels(7)), ranks, folder, losses, evaluated
    )
    trainer.train()
    held = [getattr(p, "_local_tensor", p).numel() for p in trainer.average.module.parameters()]
    before = snapshot(network)
    change = max(
        float((whole_tensor(value) - before[name]).abs().max())
        for name, value in trainer.networks.teacher.named_parameters()
    )
    return Seen(losses.values, ranks.gather(sum(held)), change)


def evaluated(nimg: int, average: VelocityNetwork) -> Mapping[str, float]:
    """A forward without a backward, after which a shard must still be one."""
    with torch.no_grad():
        velocity = average(torch.ones(2, 3), torch.tensor([0.2, 0.7]), labels(2))
    return {"mean": float(velocity.mean())}


def whole_tensor(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def distil_cases(work: list[tuple[Path, float]]) -> list[list[Seen]]:
    """Runs on every rank, all in one launch: starting processes takes longer than training."""
    with init_distributed() as ranks:
        return [
            [distil_case(ranks, case, folder / str(i), kimg) for i, case in enumerate(CASES)]
            for folder, kimg in work
        ]


def test_two_ranks_follow_one(tmp_path: Path) -> None:
    """Adapters on sharded blocks, and on the root, where flags and gradients once got lost."""
    (ones,) = distil_cases([(tmp_path / "one", 0.16)])
    # Then the checkpoint of one rank continues on two, and the other way round.
    twos, ones_continued = launch(
        distil_cases, 2, [(tmp_path / "two", 0.16), (tmp_path / "one", 0.24)]
    )
    (twos_continued,) = distil_cases([(tmp_path / "two", 0.24)])
    for one, two in zip(ones, twos, strict=True):
        assert len(one.losses) == 10 * 7
        assert_close(one.losses, two.losses)
        assert max(two.shares) < 0.7 * one.shares[0]
        assert one.base_change == two.base_change == 0
    for one, two in zip(twos_continued, ones_continued, strict=True):
        assert len(one.losses) == 5 * 7
        assert_close(one.losses, two.losses)
    # Recomputing changes no result.
    assert_close(ones[0].losses, ones[1].losses)
    assert_close(ones[2].losses, ones[3].losses)


def test_a_lora_generator_starts_where_another_ended(
    digits_teacher: PipelineTeacher, tmp_path: Path
) -> None:
    settings = training(kimg=0.016)
    student = student_of(digits_teacher)
    Trainer(settings, student, ALONE, tmp_path).train()
    earlier = student_network(digits_teacher.network, settings)
    load_modules(max(tmp_path.glob("nimg-*")), {"generator_ema": earlier})
    inputs = batch(digits_teacher)
    with torch.no_grad():
        expected, teacher = earlier(*inputs), digits_teacher.network(*inputs)
        assert not torch.equal(expected, teacher)
        # An adapter goes on as one, a full run goes on from the fused weights.
        for overrides, tolerance in (((LORA,), 2e-6), ((), 1e-5)):
            roles = build_networks(
                replace(student, generator=earlier), config(*overrides), METHOD, ALONE
            )
            for network in (roles.trained["generator"], roles.average):
                torch.testing.assert_close(network(*inputs), expected, atol=tolerance, rtol=0)
            for network in (roles.trained["fake_score"], roles.teacher):
                assert torch.equal(network(*inputs), teacher)
    with pytest.raises(RequestError, match=r'"rank":4.* this run .*"rank":2'):
        lora_roles(replace(student, generator=earlier), 'training.lora={"rank":2}')
    with pytest.raises(RequestError, match="full network"):
        lora_roles(replace(student, generator=digits_teacher.network))


def test_a_full_generator_starts_elsewhere() -> None:
    teacher, other = OwnVelocity(SmallVelocity(1)), OwnVelocity(SmallVelocity(2))
    student = DistillationInputs(teacher, (3,), labels(7), generator=other)
    trainer = Trainer(config(), student, ALONE)
    for network in (trainer.networks.generator, trainer.average):
        assert equal(snapshot(network), snapshot(other))
    for network in (trainer.networks.fake_score, trainer.networks.teacher):
        assert equal(snapshot(network), snapshot(teacher))
    trainer.train()
    assert equal(snapshot(other), snapshot(OwnVelocity(SmallVelocity(2))))


class BlocksTeacher(Blocks):
    latent_shape = (3,)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        return self(torch.cat([x_t, t[:, None], torch.zeros_like(t)[:, None]], dim=1))


class Shrinking:
    """The closed form of one point at the origin: eps - x_0 = x_t / t."""

    latent_shape = (3,)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        return x_t / t[:, None].clamp(min=0.05)


def test_lora_from_python() -> None:
    """A teacher of one's own, and a closed form with a network to start from."""
    settings = config('training.lora={"rank":2,"targets":["inner","blocks.1"]}', kimg=0.16)
    teacher = BlocksTeacher()
    distilled = distil_own(teacher, settings)
    samples = distilled.sample(8, seed=1)
    with torch.no_grad():
        for value in teacher.parameters():
            value.zero_()  # the student is its own
    assert torch.equal(distilled.sample(8, seed=1), samples)
    assert samples.abs().max() > 0
    assert [p.shape for p in distilled.network.parameters()] == [(2, 5), (16, 2), (2, 16), (16, 2)]
    started = distil_own(Shrinking(), settings, start=BlocksTeacher())
    assert started.sample(4).isfinite().all()


def test_wrong_targets_are_refused(digits_teacher: PipelineTeacher) -> None:
    student = student_of(digits_teacher)
    with pytest.raises(RequestError, match=r"training\.lora\.targets 'to_x'\. Known: .*to_q"):
        lora_roles(student, 'training.lora={"targets":["to_k","to_x"]}')
    with pytest.raises(RequestError, match=r"Did you mean 'attn1\.to_q'"):
        lora_roles(student, 'training.lora={"targets":["atn1.to_q"]}')
    with pytest.raises(RequestError, match="no linear layers in transformer blocks"):
        lora_roles(DistillationInputs(OwnVelocity(SmallVelocity(1)), (3,)))
    with pytest.raises(RequestError, match=r"training\.lora\.rank"):
        config('training.lora={"rank":0}')
    with pytest.raises(RequestError, match=r"training\.lora\.targets"):
        config('training.lora={"targets":[]}')
    with pytest.raises(RequestError, match="no gradient checkpointing"):
        lora_roles(
            DistillationInputs(BlockVelocity(Blocks()), (3,)),
            "training.gradient_checkpointing=true",
        )
    with pytest.raises(RequestError, match="no adapter"):
        save_adapter(digits_teacher.network, Path(), type(digits_teacher.pipeline))


def test_targets_name_layers_by_their_end(digits_teacher: PipelineTeacher) -> None:
    roles = lora_roles(
        student_of(digits_teacher), 'training.lora={"rank":2,"targets":["attn1.to_q","proj_out"]}'
    )
    names = [name for name, _ in roles.average.named_parameters() if "lora_A" in name]
    assert names == [
        "adapter.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "adapter.transformer_blocks.1.attn1.to_q.lora_A.weight",
        "adapter.proj_out.lora_A.weight",
    ]


def test_settings_of_adapters_are_part_of_the_recipe() -> None:
    prints = {
        config(*lora).recipe_fingerprint()
        for lora in (
            (),
            (LORA,),
            ('training.lora={"rank":4,"scale":3}',),
            ("training.lora.rank=4",),
        )
    }
    assert len(prints) == 4
    assert config("training.lora.rank=4").training.lora == LoraConfig(rank=4, scale=1.0)
    both = config("training.lora.rank=4", "training.lora.scale=2")
    assert both.training.lora == LoraConfig(rank=4, scale=2.0)
    with pytest.raises(RequestError, match=r"Unknown configuration key 'training\.lora\.rnak'"):
        config("training.lora.rnak=4")


def test_a_lora_student_distils(family_teacher: PipelineTeacher) -> None:
    """The moments of its one-step latents approach those of the teacher at 20 steps."""
    encoded, uncond = family_teacher.encode(DIGIT_PROMPTS), family_teacher.uncond()
    shape, count = family_teacher.latent_shape, 256
    cond = encoded.select(torch.arange(count) % len(encoded))
    noise = NoiseSource(1).normal("reference", 0, count, shape)
    with torch.no_grad():
        reference = sample_teacher(family_teacher.network, cond, uncond, noise, 20, 1.0)
    settings = RunConfig(
        generator=GeneratorConfig(steps=1),
        training=TrainingConfig(
            kimg=1.92,
            batch_size=32,
            lora=LoraConfig(rank=16),
            ema_halflife_kimg=0.2,
            optimizers={"generator": AdamConfig(lr=2e-3), "fake_score": AdamConfig(lr=2e-3)},
        ),
    )
    sampler = FewStepSampler(settings.generator)
    start = Batch(0, count, cond, 1, NoiseSource(2), shape, torch.device("cpu"))

    def distance(network: VelocityNetwork) -> float:
        with torch.no_grad():
            samples = sampler.sample(network, cond, start.steps("sample"), 1)
        gaps = (samples.mean(0) - reference.mean(0), samples.std(0) - reference.std(0))
        return sum(float(gap.square().mean()) for gap in gaps)

    student = DistillationInputs(family_teacher.network, shape, encoded, uncond)
    trainer = Trainer(settings, student, ALONE)
    before = distance(trainer.average)
    trainer.train()
    assert distance(trainer.average) < 0.3 * before


class RandomPairs:
    """Latents of noise with each of the prompts in turn."""

    def __init__(self, teacher: PipelineTeacher) -> None:
        self.cond = teacher.encode(PROMPTS)
        self.latents = NoiseSource(5).normal("pairs", 0, len(PROMPTS), teacher.latent_shape)

    def __len__(self) -> int:
        return len(PROMPTS)

    def select(self, index: Tensor) -> Pairs:
        return Pairs(self.latents[index], self.cond.select(index))


def adversarial_gradients(teacher: PipelineTeacher, checkpointing: str) -> dict[str, Tensor]:
    """What one iteration of adversarial SiD with adapters steps the optimizers by."""
    wanted = (
        "method.name=sid2a",
        "data.source=digits",
        "method.adversarial.generator_start_kimg=0",
        "method.adversarial.adversarial_start_kimg=0",
        f"training.gradient_checkpointing={checkpointing}",
    )
    student = replace(student_of(teacher), pairs=RandomPairs(teacher))
    trainer = Trainer(config(LORA, *wanted, kimg=0.016), student, ALONE)
    found: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        for key, value in trainer.networks.trained[name].named_parameters():
            found[f"{name}.{key}"] = value.grad.clone()

    for name, optimizer in trainer.optimizers.items():
        randomize(trainer.networks.trained[name], name)
        optimizer.register_step_pre_hook(lambda *_, name=name: keep(name))
    trainer.train()
    return found


def test_features_under_checkpointing_have_the_same_gradients(
    digits_teacher: PipelineTeacher,
) -> None:
    """The fake score's features are a second way to its weights, recomputed with its adapter on."""
    plain, saving = (adversarial_gradients(digits_teacher, flag) for flag in ("false", "true"))
    assert {name.split(".")[0] for name in plain} == {"fake_score", "generator"}
    assert plain.keys() == saving.keys()
    for name, gradient in plain.items():
        assert 0 < gradient.abs().max() < math.inf, name
        torch.testing.assert_close(saving[name], gradient, rtol=1e-6, atol=1e-6)
