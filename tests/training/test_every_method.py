"""The contract of every method: it learns, resumes to the bit, and does the same on two ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import EMPTY
from tests.training.test_trainer import ALONE
from workbench.errors import InterruptedRunError, RequestError
from workbench.flow import NoiseSource
from workbench.methods import METHODS, Batch, FewStepSampler, Pairs, method_type
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.events import Listener, StopFlag
from workbench.training.launch import launch
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.parallel import init_distributed
from workbench.training.trainer import Trainer

SHAPE = (2, 3)
STD = 0.3
BRIEF = 0.64

SETTINGS = {
    "sid2a": (
        "method.adversarial.generator_start_kimg=0.2",
        "method.adversarial.adversarial_start_kimg=0.4",
    ),
    "scm": ("method.tangent_warmup_kimg=0.4",),
    # A smooth network follows few jumps in time; one that knows nothing must see t near 1.
    "meanflow": ("generator.steps=2", "method.t_mean=2", "method.t_std=3"),
}


def mean_of(cond: Conditioning | None, like: Tensor) -> Tensor:
    """The data's mean: 1 for label 1, -1 for label 2, (B, 1, 1)."""
    if cond is None:
        return torch.zeros_like(like[:, :1, :1])
    return (3 - 2 * cond["label"]).to(like).view(-1, 1, 1)


class GaussianTeacher(VelocityNetwork):
    """The exact velocity of data N(mean(label), STD^2)."""

    def __init__(self) -> None:
        super().__init__(nn.ParameterDict({"none": nn.Parameter(torch.zeros(1))}))

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        m, t = mean_of(cond, x_t), t.view(-1, 1, 1)
        variance = (1 - t) ** 2 * STD**2 + t**2
        return (t - (1 - t) * STD**2) / variance * (x_t - (1 - t) * m) - m


class Small(nn.Module):
    """A network that has learnt nothing yet, with the parts that methods and sharding look for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.Linear(5, 16)
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.proj_out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.into(x))
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        out: Tensor = self.proj_out(x)
        return out


class SmallVelocity(VelocityNetwork):
    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        label = torch.zeros_like(t) if cond is None else cond["label"].to(t)
        more = torch.stack([t, label], dim=1)[:, None].expand(-1, 2, -1)
        out: Tensor = self.module(torch.cat([x_t, more], dim=2))
        return out


class GaussianPairs:
    """Samples of the data with their labels."""

    def __init__(self, count: int) -> None:
        cond = prompts(count)
        eps = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
        self.pairs = Pairs(mean_of(cond, eps) + STD * eps, cond)

    def __len__(self) -> int:
        return len(self.pairs.latents)

    def select(self, index: Tensor) -> Pairs:
        cond = self.pairs.cond
        return Pairs(self.pairs.latents[index], cond.select(index) if cond else None)


def prompts(count: int) -> Conditioning:
    return Conditioning({"label": torch.arange(count) % 2 + 1})


def settings(name: str, kimg: float = 16.0, **training: object) -> RunConfig:
    base = RunConfig(
        training=TrainingConfig(kimg=kimg, batch_size=64, ema_halflife_kimg=0.5),
        schedule=ScheduleConfig(log_kimg=0.64, evaluate_kimg=99, checkpoint_kimg=0.64),
    )
    data = ["data.source=digits"] if needs_pairs(name) else []
    roles = [f"training.optimizers.{role}.lr=0.003" for role in trained(name)]
    more = [f"training.{key}={value}" for key, value in training.items()]
    return with_overrides(
        base, [f"method.name={name}", *data, *roles, *SETTINGS.get(name, ()), *more]
    )


def trained(name: str) -> tuple[str, ...]:
    from workbench.training.config import trained_names

    return trained_names(METHODS[name]())


def needs_pairs(name: str) -> bool:
    return method_type(METHODS[name]()).needs_pairs


def needs_prompts(name: str) -> bool:
    return method_type(METHODS[name]()).needs_prompts


def student(name: str) -> DistillationInputs:
    return DistillationInputs(
        GaussianTeacher(),
        SHAPE,
        prompts(64),
        EMPTY,
        start=SmallVelocity(Small()),
        pairs=GaussianPairs(512) if needs_pairs(name) else None,
    )


class Losses(Listener):
    def __init__(self) -> None:
        self.values: list[tuple[int, str, float]] = []

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        self.values += [(nimg, k, v) for k, v in values.items() if k.startswith("train/")]

    def of(self, name: str) -> list[float]:
        return [value for _, key, value in self.values if key == name]


@torch.no_grad()
def error(trainer: Trainer) -> float:
    """Distance of the student's mean and deviation, for each label, from the data's."""
    config, cond = trainer.config, prompts(2000)
    batch = Batch(0, 2000, cond, config.generator.steps, NoiseSource(9), SHAPE, torch.device("cpu"))
    x = FewStepSampler(config.generator).sample(trainer.average, cond, batch.steps("test"))
    total = 0.0
    for label, mean in ((1, 1.0), (2, -1.0)):
        these = x[cond["label"] == label]
        total += abs(float(these.mean()) - mean) + abs(float(these.std()) - STD)
    return total


@pytest.mark.parametrize("name", METHODS)
def test_it_learns_a_gaussian(name: str) -> None:
    """From a network that knows nothing, towards data whose mean and deviation are known."""
    losses = Losses()
    trainer = Trainer(settings(name), student(name), ALONE, None, losses)
    before = error(trainer)
    trainer.train()
    assert error(trainer) < 0.25 * before
    assert trainer.state.skipped == 0
    # What the fake score or the regression has left to explain falls.
    fitted = losses.of("train/fake_score_loss") or losses.of("train/generator_loss")
    assert sum(fitted[-3:]) < sum(fitted[:3])


def full_state_dict(trainer: Trainer) -> dict[str, Tensor]:
    parts = {**trainer.networks.trained, **trainer.networks.heads, "average": trainer.average}
    return {
        f"{part}.{name}": value.clone()
        for part, network in parts.items()
        for name, value in network.state_dict().items()
    }


BRIEF_RUNS = {
    **{name: settings(name, BRIEF) for name in METHODS},
    **{
        f"{name}, 3 updates": with_overrides(settings(name, BRIEF), ["method.fake_score_updates=3"])
        for name in ("sid", "sid2a")
    },
}
"""Title -> settings: of every method as it is, and with more updates of the fake score."""


@pytest.mark.parametrize("title", BRIEF_RUNS)
def test_it_resumes_to_the_bit(title: str, tmp_path: Path) -> None:
    """Stopped in the middle of a warm-up, where there is one."""
    config = BRIEF_RUNS[title]
    name = config.method.name
    whole = Trainer(config, student(name), ALONE, tmp_path / "whole")
    whole.train()
    stop = StopFlag()

    class StopThere(Listener):
        def on_iteration(self, progress) -> None:
            stop.requested = progress.nimg >= 320

    cut = Trainer(config, student(name), ALONE, tmp_path / "cut", StopThere(), stop=stop)
    with pytest.raises(InterruptedRunError):
        cut.train()
    resumed = Trainer(config, student(name), ALONE, tmp_path / "cut")
    resumed.train()
    assert resumed.state.evaluations == whole.state.evaluations > 0
    ended = full_state_dict(whole)
    assert all(torch.equal(value, ended[key]) for key, value in full_state_dict(resumed).items())


def train_all() -> dict[str, list[tuple[int, str, float]]]:
    """Every method, ``BRIEF`` kimg each; runs on every rank."""
    found = {}
    with init_distributed() as ranks:
        for title, config in BRIEF_RUNS.items():
            losses = Losses()
            Trainer(config, student(config.method.name), ranks, None, losses).train()
            found[title] = losses.values
    return found


def test_two_ranks_follow_one() -> None:
    one, two = train_all(), launch(train_all, 2)
    for name, points in one.items():
        assert len(points) == len(two[name]) > 0
        for (nimg, metric, a), (_, _, b) in zip(points, two[name], strict=True):
            assert a == pytest.approx(b, rel=1e-3, abs=1e-4), (name, metric, nimg)


@pytest.mark.parametrize("title", ["sid2a", "sid, 3 updates", "dmd2", "scm", "meanflow"])
def test_micro_batches_change_nothing_but_rounding(title: str) -> None:
    ended, whole = [], BRIEF_RUNS[title]
    for size in (64, 20):
        config = with_overrides(whole, [f"training.micro_batch_size={size}"])
        trainer = Trainer(config, student(config.method.name), ALONE)
        trainer.train()
        ended.append(full_state_dict(trainer))
    for key, value in ended[0].items():
        torch.testing.assert_close(value, ended[1][key], rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if needs_pairs(name)])
def test_a_method_of_data_is_refused_without(name: str) -> None:
    without = replace(student(name), pairs=None)
    with pytest.raises(RequestError, match=f"{name!r} learns from image-text pairs, and there are"):
        Trainer(settings(name, BRIEF), without, ALONE)


@pytest.mark.parametrize("name", METHODS)
def test_guidance_without_an_empty_prompt_is_refused_before_training(name: str) -> None:
    unprompted = replace(student(name), uncond=None)
    Trainer(settings(name, BRIEF), unprompted, ALONE)
    config = settings(name, BRIEF)
    key = "guidance.eval_teacher" if hasattr(config.method, "guidance") else "cfg_scale"
    guided = with_overrides(config, [f"method.{key}=2"])
    Trainer(guided, student(name), ALONE)
    with pytest.raises(RequestError, match=f"method.{key}=2: guidance needs an unconditional"):
        Trainer(guided, unprompted, ALONE)


@pytest.mark.parametrize("name", METHODS)
def test_prompts_are_of_use_where_a_method_says_so(name: str) -> None:
    """Trained on prompts of label 1 alone, or 2; pairs are the same."""
    ended = []
    for label in (1, 2):
        only = Conditioning({"label": torch.full((64,), label)})
        trainer = Trainer(settings(name, BRIEF), replace(student(name), prompts=only), ALONE)
        trainer.train()
        ended.append(full_state_dict(trainer))
        given = trainer.batches.take(0, 1, [0])[0][0].cond
        assert (given is not None) is needs_prompts(name)
    changed = any(not torch.equal(value, ended[1][key]) for key, value in ended[0].items())
    assert changed is needs_prompts(name)
