"""Sharding and mixed precision: what a rank holds, what ranks send, in which type; one is two."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from tests.helpers import labels
from tests.training.test_trainer import config
from workbench.flow import NoiseSource
from workbench.methods import METHODS, Batch, Loss, Networks, Pairs, Phase, method_type
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import Conditioning, OwnVelocity, VelocityNetwork
from workbench.teachers.mixture import LOG_SHARES, MLPVelocity
from workbench.teachers.sana import SanaVelocity
from workbench.teachers.weights import WeightFiles, empty_transformer
from workbench.training.ema import ema_decay, halflife_at
from workbench.training.launch import launch
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks, init_distributed
from workbench.training.trainer import Trainer

PROMPTS = ["the digit 7", "a handwritten two", "zero written by hand", "the digit 4"]
MIXED = "training.precision=bf16-mixed"
WIDTH, DEPTH = 64, 8
recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class Deep(nn.Module):
    """A residual network of equal blocks, which recomputes them as diffusers' transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.recompute = False
        # Before the layers of the root, as a network of one's own may have them.
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH))
        self.inner, self.outer = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        noise = NoiseSource(4)
        with torch.no_grad():
            for name, value in self.named_parameters():
                value.copy_(noise.normal(name, 0, 1, value.shape)[0] / 8)

    def enable_gradient_checkpointing(self) -> None:
        self.recompute = True

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        assert cond is not None
        parts = [x_t, t[:, None].to(x_t), cond["label"][:, None].to(x_t)]
        x = self.inner(torch.cat(parts, dim=1))
        for block in self.blocks:
            again = self.recompute and torch.is_grad_enabled()
            x = x + torch.tanh(recomputed(block, x) if again else block(x))
        velocity: Tensor = self.outer(x)
        return velocity


def deep() -> DistillationInputs:
    return DistillationInputs(OwnVelocity(Deep()), (3,), labels(7))


def make(
    ranks: Ranks, student: DistillationInputs, *overrides: str, listener: Any = None
) -> Trainer:
    return Trainer(config(*overrides), student, ranks, listener=listener)


def trained(trainer: Trainer, iterations: int) -> list[dict[str, float]]:
    """What each of the next iterations reports."""
    found = []
    for _ in range(iterations):
        trainer.train_step()
        found.append(trainer.state.take_means())
    return found


def whole(value: Tensor) -> Tensor:
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().clone()


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: whole(value) for name, value in network.named_parameters()}


class Operations(TorchDispatchMode):
    """The operations that run meanwhile: name, and type and size of the first tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, torch.dtype, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = next(iter(_tensors(args)), None)
        if first is not None:
            self.seen.append((str(func), first.dtype, first.numel()))
        return func(*args, **(kwargs or {}))

    def collectives(self) -> list[tuple[str, torch.dtype, int]]:
        return [
            (name.split(".")[1].strip("_"), dtype, size)
            for name, dtype, size in self.seen
            if name.startswith(("c10d.", "_c10d_functional."))
        ]


def _tensors(values: Any) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


# What a rank holds.


@dataclass
class Held:
    """Of one forward pass that records a graph, in bytes: all weights in bfloat16, and its own.

    Attributes:
        saved: tensors of a weight's shape that autograd has kept.
        alive: bytes of them that are still there after the forward.
        peak: the most that the allocator had given out in the forward, over what it began with.
    """

    weights: int
    saved: int
    alive: int
    peak: int


def held_by(network: VelocityNetwork) -> Held:
    shapes = {tuple(p.shape) for p in network.parameters() if p.ndim == 2}
    shapes |= {shape[::-1] for shape in shapes}
    kept: list[Tensor] = []

    def pack(value: Tensor) -> Tensor:
        if tuple(value.shape) in shapes:
            kept.append(value)
        return value

    x_t = torch.randn(2, 3, requires_grad=True)  # as a frozen network's input has it
    inputs = (x_t, torch.tensor([0.2, 0.7]), labels(2))
    network(*inputs)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        velocity = network(*inputs)
    with saved_tensors_hooks(pack, lambda value: value):
        velocity = network(*inputs)
    alive = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    size = 2 * sum(p.numel() for p in network.parameters())
    assert velocity.requires_grad
    return Held(size, len(kept), sum(alive.values()), peak_of(profiler))


def peak_of(profiler: Any) -> int:
    """The most bytes that torch's allocator had given out at once, over what it began with."""
    events = profiler.profiler.kineto_results.events()
    alive = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        alive += size
        peak = max(peak, alive)
    return peak


def hold(ranks: Ranks, sana: Sana) -> dict[str, Held]:
    found = {}
    for again in (False, True):
        flag = f"training.gradient_checkpointing={str(again).lower()}"
        trainer = make(ranks, deep(), MIXED, flag)
        networks = {"trained": trainer.networks.generator, "frozen": trainer.networks.teacher}
        for name, network in networks.items():
            found[f"{name}, checkpointing {again}"] = held_by(network)
    # What the check is worth: the same network, sharded as it was before there was a policy.
    trainer = make(ranks, deep(), "training.shards=1" if ranks.world == 1 else "seed=0")
    with torch.autocast("cpu", torch.bfloat16):
        found["autocast"] = held_by(trainer.networks.generator)
    return found


# A real run in mixed precision.


@dataclass(frozen=True)
class Sana:
    """The tiny SANA teacher as a run has it: its transformer still in its files."""

    component: Path
    latent_shape: tuple[int, ...]
    time_scale: float
    cond: Mapping[str, Tensor]
    uncond: Mapping[str, Tensor]

    @staticmethod
    def of(teacher: PipelineTeacher) -> Sana:
        network, component = teacher.network, teacher.folder / "transformer"
        assert isinstance(network, SanaVelocity)
        cond, uncond = teacher.encode(PROMPTS), teacher.uncond()
        shape, scale = teacher.latent_shape, network.time_scale
        return Sana(component, shape, scale, cond.tensors, uncond.tensors)

    def student(self) -> DistillationInputs:
        network = SanaVelocity(empty_transformer(self.component), self.time_scale)
        files = WeightFiles(self.component)
        prompts, uncond = Conditioning(self.cond), Conditioning(self.uncond)
        return DistillationInputs(network, self.latent_shape, prompts, uncond, weights=files)

    def inputs(self) -> tuple[Tensor, Tensor, Conditioning]:
        x_t = NoiseSource(5).normal("mixed", 0, len(PROMPTS), self.latent_shape)
        return x_t, torch.tensor([0.999, 0.7491, 0.5003, 0.1]), Conditioning(self.cond)


@dataclass
class Ran:
    """A run of a few iterations."""

    means: list[dict[str, float]]
    dtypes: dict[str, set[torch.dtype]]
    reduced: set[torch.dtype]


def run(ranks: Ranks, sana: Sana) -> Ran:
    micro = 8 // ranks.world if ranks.world > 1 else 4
    batch = ("training.batch_size=8", f"training.micro_batch_size={micro}")
    guided = ("method.guidance.eval_teacher=2",)
    trainer = make(ranks, sana.student(), MIXED, *batch, *guided)
    with Operations() as operations:
        means = trained(trainer, 4)
    roles = trainer.networks.trained
    kinds: dict[str, Iterable[Tensor]] = {
        "trained": [p for network in roles.values() for p in network.parameters()],
        "average": trainer.average.parameters(),
        "teacher": trainer.networks.teacher.parameters(),
        "moments": [
            value
            for optimizer in trainer.optimizers.values()
            for state in optimizer.state.values()
            for value in state.values()
        ],
    }
    return Ran(
        means,
        {name: {value.dtype for value in values} for name, values in kinds.items()},
        {dtype for name, dtype, _ in operations.collectives() if name != "allgather_base"},
    )


def gradients(ranks: Ranks, sana: Sana) -> dict[str, Tensor]:
    """What adapters step along in a run's second iteration: B is not zero any more."""
    lora = 'training.lora={"rank": 4}'
    trainer = make(
        ranks, sana.student(), MIXED, lora, "training.batch_size=4", "training.micro_batch_size=2"
    )
    found: dict[str, Tensor] = {}
    step = trainer._step
    roles = {id(optimizer): role for role, optimizer in trainer.optimizers.items()}

    def recorded(optimizer: torch.optim.Optimizer, nonfinite: Tensor) -> None:
        role = roles[id(optimizer)]
        for name, value in trainer.networks.module(role).named_parameters():
            assert value.grad is not None, name
            assert value.dtype == value.grad.dtype == torch.float32, name
            found[f"{role} {name}"] = whole(value.grad)
        step(optimizer, nonfinite)

    trainer._step = recorded  # type: ignore[method-assign]
    trained(trainer, 2)
    return found


NO_WARM_UP = {
    "sid2a": (
        "method.adversarial.generator_start_kimg=0",
        "method.adversarial.adversarial_start_kimg=0",
    ),
    "scm": ("method.tangent_warmup_kimg=0",),
}


@dataclass(frozen=True)
class AnyPairs:
    """Latents of nothing with each of the prompts."""

    sana: Sana

    def __len__(self) -> int:
        return len(PROMPTS)

    def select(self, index: Tensor) -> Pairs:
        latents = torch.zeros(len(index), *self.sana.latent_shape)
        return Pairs(latents, Conditioning(self.sana.cond).select(index))


def methods(ranks: Ranks, sana: Sana) -> dict[str, list[dict[str, float]]]:
    """What two iterations of every method report, forward-mode derivatives and heads among it."""
    batch = ("training.batch_size=4", "training.micro_batch_size=2")
    found = {}
    for name in METHODS:
        more, student = NO_WARM_UP.get(name, ()), sana.student()
        if method_type(METHODS[name]()).needs_pairs:
            more, student = (*more, "data.source=digits"), replace(student, pairs=AnyPairs(sana))
        trainer = make(ranks, student, MIXED, f"method.name={name}", *batch, *more)
        found[name] = trained(trainer, 2)
    return found


# What ranks send.


def send(ranks: Ranks, sana: Sana) -> dict[str, Any]:
    """Means of iterations in micro-batches, and the collectives of the second, by setting."""
    found = {}
    for every in (False, True):
        settings = (
            f"training.micro_batch_size={4 // ranks.world}",
            f"training.sync_every_micro_batch={str(every).lower()}",
        )
        trainer = make(ranks, deep(), *settings)
        means = trained(trainer, 1)
        with Operations() as operations:
            means += trained(trainer, 1)
        means += trained(trainer, 3)
        found["every" if every else "last"] = (means, operations.collectives())
    return found


# Flags, skipped updates, times, start, average.


def flags(ranks: Ranks, sana: Sana) -> list[tuple[str, str, bool, bool]]:
    """(phase, role, whether it is trainable in the loss, whether it has a gradient after it)."""
    trainer = make(ranks, deep(), MIXED)
    seen: list[tuple[str, str, bool, bool]] = []
    known = trainer.method.phases
    reduce = trainer._reduce
    trainable: dict[str, bool] = {}

    def watched(phase: Phase) -> Phase:
        def loss(networks: Networks, batch: Batch) -> Loss:
            for role, network in networks.trained.items():
                trainable[role] = all(p.requires_grad for p in network.parameters())
            return phase.loss(networks, batch)

        return replace(phase, loss=loss)

    def reduced(phase: Phase, metrics: Mapping[str, Tensor]) -> Any:
        for role, network in trainer.networks.trained.items():
            graded = {p.grad is not None for p in network.parameters()}
            assert len(graded) == 1
            seen.append((phase.name, role, trainable[role], graded.pop()))
        return reduce(phase, metrics)

    trainer.method.phases = lambda nimg: [watched(phase) for phase in known(nimg)]  # type: ignore[method-assign]
    trainer._reduce = reduced  # type: ignore[method-assign]
    trained(trainer, 2)
    return seen


@dataclass
class Skipped:
    """Weights and moments around an update that rank ``world - 1`` alone has no loss for."""

    changed: list[str]
    skipped: list[int]
    in_a_row: list[dict[str, int]]
    norms: list[float]


def skip(ranks: Ranks, sana: Sana) -> Skipped:
    trainer = make(ranks, deep(), MIXED)
    known, broken = trainer.method.phases, [False]

    def poisoned(networks: Networks, batch: Batch) -> Loss:
        loss = known(0)[0].loss(networks, batch)
        bad = broken[0] and ranks.rank == ranks.world - 1
        return Loss(loss.value * (float("nan") if bad else 1.0), loss.metrics)

    def phases(nimg: int) -> list[Phase]:
        first, *others = known(nimg)
        return [replace(first, loss=poisoned), *others]

    trainer.method.phases = phases  # type: ignore[method-assign]

    def snapshot(role: str) -> list[Tensor]:
        optimizer = trainer.optimizers[role]
        moments = [v for state in optimizer.state.values() for v in state.values()]
        return [whole(v) for v in (*trainer.networks.module(role).parameters(), *moments)]

    result = Skipped([], [], [], [])
    for iteration in range(3):
        broken[0] = iteration == 1
        before = {role: snapshot(role) for role in trainer.optimizers}
        (means,) = trained(trainer, 1)
        for role, values in before.items():
            if not all(map(torch.equal, values, snapshot(role))):
                result.changed.append(f"{role} {iteration}")
        result.skipped.append(trainer.state.skipped)
        result.in_a_row.append(dict(trainer.state.skipped_in_a_row))
        result.norms.append(means.get("train/fake_score_grad_norm", float("nan")))
    return result


def times(ranks: Ranks, sana: Sana) -> dict[str, Tensor]:
    """What networks in bfloat16 are told of t, by kind."""
    found: dict[str, Tensor] = {}
    x_t, t, _ = inputs = sana.inputs()
    teacher = roles(ranks, sana.student(), MIXED)["teacher"]
    hooks = timesteps(teacher, found)
    teacher(*inputs)
    assert hooks
    found["Timesteps"] /= sana.time_scale
    own = roles(ranks, deep(), MIXED)["generator"]
    velocity = own.module.velocity

    def heard(x: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        found["own"], found["own x_t"] = t, x
        return velocity(x, t, cond)

    own.module.velocity = heard
    own(x_t[:, :3, 0, 0], t, labels(4))
    mixture = mlp()
    network = roles(ranks, mixture, MIXED)["generator"]
    network.module.register_forward_pre_hook(
        lambda _, given: found.update({"mixture": given[1], "mixture x_t": given[0]})
    )
    assert mixture.prompts is not None
    network(x_t[:, :2, 0, 0], t, mixture.prompts)
    return found


def timesteps(network: VelocityNetwork, into: dict[str, Tensor]) -> int:
    """Keep what the sinusoids of a diffusers transformer get; how many layers of them there are."""

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        into.setdefault("Timesteps", given[0])  # FLUX's guidance comes after its times

    layers = [m for m in network.module.modules() if type(m).__name__ == "Timesteps"]
    for layer in layers:
        layer.register_forward_pre_hook(keep)
    return len(layers)


def mlp() -> DistillationInputs:
    """A mixture's student of two modes in the plane."""
    network = MLPVelocity(2, 2, width=16, blocks=2)
    shares = torch.eye(2)[[0, 1, 0, 1]].log()
    return DistillationInputs(network, (2,), Conditioning({LOG_SHARES: shares}))


def roles(ranks: Ranks, student: DistillationInputs, *overrides: str) -> dict[str, VelocityNetwork]:
    trainer = make(ranks, student, *overrides)
    return {
        "teacher": trainer.networks.teacher,
        **trainer.networks.trained,
        "average": trainer.average,
    }


def start(ranks: Ranks, sana: Sana) -> dict[str, Tensor]:
    """The first velocity of every role, filled from files shard by shard, in float32."""
    networks = roles(ranks, sana.student())
    with torch.no_grad():
        return {name: network(*sana.inputs()) for name, network in networks.items()}


@dataclass
class Averaged:
    """The average after a few iterations, twice computed, and the calls of one."""

    average: dict[str, Tensor]
    expected: dict[str, Tensor]
    calls: int


def average(ranks: Ranks, sana: Sana) -> Averaged:
    trainer = make(ranks, deep(), MIXED, "training.ema_rampup=0.5")
    expected, settings = state_of(trainer.average), trainer.config.training
    for nimg in (0, 16, 32):
        with Operations() as operations:
            trained(trainer, 1)
        halflife = halflife_at(nimg, settings.ema_halflife_kimg * 1000, 0.5)
        decay = ema_decay(16, halflife)
        for name, value in state_of(trainer.networks.generator).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    calls = sum("lerp_" in name for name, *_ in operations.seen)
    return Averaged(state_of(trainer.average), expected, calls)


CHECKS: Mapping[str, Callable[[Ranks, Sana], Any]] = {
    check.__name__: check
    for check in (hold, run, gradients, methods, send, flags, skip, times, start, average)
}


def checked(sana: Sana) -> dict[str, Any]:
    """Runs on every rank, all in one launch: starting processes takes longer than training."""
    torch.manual_seed(0)
    with init_distributed() as ranks:
        return {name: check(ranks, sana) for name, check in CHECKS.items()}


@pytest.fixture(scope="module")
def sana(digits_teacher: PipelineTeacher) -> Sana:
    return Sana.of(digits_teacher)


@pytest.fixture(scope="module")
def one(sana: Sana) -> dict[str, Any]:
    return checked(sana)


@pytest.fixture(scope="module")
def two(sana: Sana) -> dict[str, Any]:
    return launch(checked, 2, sana)


@pytest.fixture(params=["one", "two"])
def world(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.getfixturevalue(request.param)
    return found


def assert_close(one: Any, two: Any, rel: float) -> None:
    assert len(one) == len(two) > 0
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            # Along the direction of a gap that is nearly nothing at first: rounding turns it.
            tolerance = 100 * rel if name == "train/score_drag" else rel
            assert value == pytest.approx(right[name], rel=tolerance, abs=1e-6), name


def test_no_weight_stays_gathered_after_a_forward(world: dict[str, Any]) -> None:
    """Autocast over shards keeps a copy of every layer, of frozen networks too."""
    held: dict[str, Held] = dict(world["hold"])
    before = held.pop("autocast")
    assert before.alive > 0.9 * before.weights
    assert len(held) == 4
    for name, found in held.items():
        assert found.saved > 0, name
        assert found.alive == 0, name
        # How many layers are on their way at once depends on how fast ranks answer.
        assert found.peak < 0.8 * found.weights, name


def test_a_run_keeps_masters_and_reduces_in_float32(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    for ran in (one["run"], two["run"]):
        kinds = {name: {torch.float32} for name in ("trained", "average", "moments")}
        assert ran.dtypes == {**kinds, "teacher": {torch.bfloat16}}
    assert two["run"].reduced == {torch.float32}
    # In equal micro-batches even bfloat16 rounds the same.
    assert_close(one["run"].means, two["run"].means, rel=1e-4)


def test_adapters_gradients_are_one_ranks(one: dict[str, Any], two: dict[str, Any]) -> None:
    ours, theirs = one["gradients"], two["gradients"]
    assert ours.keys() == theirs.keys()
    assert {name.split()[0] for name in ours} == {"generator", "fake_score"}
    for name, value in ours.items():
        assert value.norm() > 0, name
        assert (theirs[name] - value).norm() < 1e-3 * value.norm(), name


@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_mixed_precision_is_one_ranks(
    name: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    assert_close(one["methods"][name], two["methods"][name], rel=1e-3)


def test_micro_batches_are_reduced_once(one: dict[str, Any], two: dict[str, Any]) -> None:
    """A reduce-scatter a unit and phase, and nothing but one small sum a phase beside it."""
    units, phases, micro_batches = DEPTH + 1, 2, 4
    for setting, times_each in (("last", 1), ("every", micro_batches)):
        means, collectives = two["send"][setting]
        assert_close(one["send"]["last"][0], means, rel=3e-5)
        kinds = [name for name, *_ in collectives]
        assert set(kinds) == {"allgather_base", "reduce_scatter_base", "allreduce"}
        assert kinds.count("reduce_scatter_base") == units * phases * times_each
        sums = [size for name, _, size in collectives if name == "allreduce"]
        assert len(sums) == phases
        assert max(sums) < 10
    assert one["send"]["last"][1] == []


def test_only_what_a_gradient_passes_through_is_frozen(world: dict[str, Any]) -> None:
    """FSDP2 takes its types from what is trainable when a module first runs."""
    fake, generator = ("fake_score", "fake_score"), ("generator", "generator")
    expected = {
        ("fake_score", "generator", True, False),
        (*fake, True, True),
        ("generator", "fake_score", False, False),
        (*generator, True, True),
    }
    assert set(world["flags"]) == expected
    assert len(world["flags"]) == 2 * len(expected)


def test_one_ranks_trouble_skips_every_ranks_update(world: dict[str, Any]) -> None:
    """Weights, moments and steps stay as they are, and the next update is applied."""
    found: Skipped = world["skip"]
    assert found.changed == [
        *("fake_score 0", "generator 0"),
        "generator 1",
        *("fake_score 2", "generator 2"),
    ]
    assert found.skipped == [0, 1, 1]
    assert [row["fake_score"] for row in found.in_a_row] == [0, 1, 0]
    assert [row["generator"] for row in found.in_a_row] == [0, 0, 0]
    assert found.norms[0] > 0
    assert found.norms[2] > 0


def test_times_reach_networks_in_float32(world: dict[str, Any], sana: Sana) -> None:
    """0.999 and 0.7491 are 1 and 0.75 in bfloat16."""
    told = world["times"]
    for name in ("Timesteps", "own", "mixture"):
        assert told[name].dtype == torch.float32, name
        torch.testing.assert_close(told[name], sana.inputs()[1], rtol=1e-6, atol=0)
    assert told["own x_t"].dtype == told["mixture x_t"].dtype == torch.bfloat16


def test_roles_start_as_the_stock_pipeline_loads_them(world: dict[str, Any], sana: Sana) -> None:
    """To rounding (of two ranks, weights lie elsewhere in memory), unfiled positions included."""
    from diffusers import SanaTransformer2DModel

    loaded = SanaTransformer2DModel.from_pretrained(sana.component).eval()
    assert {name for name, _ in loaded.named_buffers()} - loaded.state_dict().keys()
    with torch.no_grad():
        expected = SanaVelocity(loaded, sana.time_scale)(*sana.inputs())
    assert len(world["start"]) == 4
    for name, velocity in world["start"].items():
        torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=0, msg=name)


def test_the_average_is_the_closed_form_in_one_call(world: dict[str, Any]) -> None:
    found: Averaged = world["average"]
    assert found.calls == 1
    for name, value in found.average.items():
        torch.testing.assert_close(value, found.expected[name], rtol=1e-5, atol=1e-6)


def replicated(settings: tuple[str, ...]) -> tuple[list[dict[str, float]], set[int]]:
    """Runs on every rank: two copies of the weights, each on two ranks."""
    with init_distributed() as ranks:
        trainer = make(ranks, deep(), *settings)
        weight = next(trainer.networks.generator.parameters())
        assert isinstance(weight, DTensor)
        means = trained(trainer, 4)
        shares = set(ranks.gather(weight.to_local().numel() * 2))
        return means, {*shares, weight.numel()}


def test_copies_of_the_weights_count_once() -> None:
    """Losses and gradient norms of four ranks that hold two copies are one rank's."""
    settings = ("training.micro_batch_size=4",)
    means, sizes = launch(replicated, 4, (*settings, "training.shards=2"))
    assert len(sizes) == 1
    alone = trained(make(Ranks(0, 1, torch.device("cpu")), deep(), *settings), 4)
    assert_close(alone, means, rel=3e-5)


def test_every_familys_times_are_exact(family_teacher: PipelineTeacher) -> None:
    """In mixed precision, of weights stored in bfloat16 and of those in float32."""
    ranks = Ranks(0, 1, torch.device("cpu"))
    prompts = family_teacher.encode(PROMPTS)
    shape = family_teacher.latent_shape
    student = DistillationInputs(family_teacher.network, shape, prompts, family_teacher.uncond())
    x_t, t = NoiseSource(5).normal("mixed", 0, 4, shape), torch.tensor([0.999, 0.7491, 0.5, 0.1])
    built = roles(ranks, student, MIXED)
    for name in ("teacher", "generator"):
        told: dict[str, Tensor] = {}
        assert timesteps(built[name], told)
        built[name](x_t, t, prompts)
        seen = told["Timesteps"]
        assert seen.dtype == torch.float32
        torch.testing.assert_close(seen / (seen[2] / t[2]), t, rtol=1e-6, atol=0)
