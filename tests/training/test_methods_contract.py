"""What the trainer gives any method: heads, phases of several networks, draws of prompts."""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

import workbench.methods as methods
from tests.helpers import EMPTY, labels
from tests.methods.test_adversarial import Tokens
from tests.training.test_trainer import ALONE, config
from workbench.errors import InterruptedRunError, RequestError
from workbench.methods import Batch, Loss, Networks, Phase, SiD, SiDConfig
from workbench.teachers.base import OwnVelocity
from workbench.teachers.guidance import denoise
from workbench.training.config import RunConfig
from workbench.training.distill import distill
from workbench.training.events import Listener, StopFlag
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.trainer import NonFiniteError, Trainer

SEEN: list[tuple[int, Tensor]] = []
"""(draw, the prompts that a phase was given), newest last."""


class WithHead(SiD):
    """SiD whose fake score is updated twice, the second time together with a head on it."""

    heads = MappingProxyType(
        {"head": lambda teacher: nn.Linear(teacher.feature_layer().in_features, 1)}
    )

    def phases(self, nimg: int) -> tuple[Phase, ...]:
        first, generator = super().phases(nimg)
        return (first, Phase(("fake_score", "head"), self.judge, draw=1), generator)

    def judge(self, networks: Networks, batch: Batch) -> Loss:
        SEEN.append((1, batch.cond["label"]))
        at = self.generated(networks, batch, "judge")
        psi = denoise(networks.fake_score, at.x_t, at.t, batch.cond, with_features=True)
        value = (networks.heads["head"](psi.tokens().mean(1)) - at.t[:, None]).square().mean()
        return Loss(value, {"train/judge": value.detach()})

    def fake_score_phase(self, networks: Networks, batch: Batch, stream: str = "fake_score"):
        SEEN.append((0, batch.cond["label"]))
        return super().fake_score_phase(networks, batch, stream)


@pytest.fixture(autouse=True)
def with_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods._TYPES, SiDConfig, WithHead)
    SEEN.clear()


def student() -> DistillationInputs:
    return DistillationInputs(OwnVelocity(Tokens(1)), (2, 3), labels(64), EMPTY)


def state(trainer: Trainer) -> dict[str, Tensor]:
    parts = {**trainer.networks.trained, **trainer.networks.heads, "average": trainer.average}
    return {
        f"{part}.{name}": value.clone()
        for part, network in parts.items()
        for name, value in network.state_dict().items()
    }


def test_a_phase_may_train_a_head_beside_a_role_and_resumes_with_it(tmp_path: Path) -> None:
    whole = Trainer(config(), student(), ALONE, tmp_path / "whole")
    start = state(whole)
    assert whole.config.training.optimizers.keys() == {"generator", "fake_score", "head"}
    whole.train()
    ended = state(whole)
    moved = {name.split(".")[0] for name in ended if not torch.equal(ended[name], start[name])}
    assert moved == {"fake_score", "generator", "head", "average"}

    stop = StopFlag()

    class StopThere(Listener):
        def on_iteration(self, progress) -> None:
            stop.requested = progress.nimg >= 112

    with pytest.raises(InterruptedRunError):
        Trainer(config(), student(), ALONE, tmp_path / "cut", StopThere(), stop=stop).train()
    again = student()
    torch.manual_seed(99)  # a head's first weights are the run's seed's alone
    resumed = Trainer(config(), again, ALONE, tmp_path / "cut")
    assert all(torch.equal(value, start[name]) for name, value in state(resumed).items())
    resumed.train()
    assert all(torch.equal(value, ended[name]) for name, value in state(resumed).items())


def test_each_draw_has_prompts_of_its_own() -> None:
    Trainer(config(kimg=0.064), student(), ALONE).train()
    drawn = {draw: torch.cat([seen for d, seen in SEEN if d == draw]) for draw in (0, 1)}
    assert len(drawn[0]) == len(drawn[1]) == 64
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0].sort().values, drawn[1].sort().values)  # one pass over all prompts


def test_a_head_needs_a_layer_to_stand_on() -> None:
    class Bare(nn.Module):
        latent_shape = (3,)

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def velocity(self, x_t: Tensor, t: Tensor, cond: object) -> Tensor:
            return self.scale * x_t

    with pytest.raises(RequestError, match="Bare has no last features"):
        Trainer(config(), DistillationInputs(OwnVelocity(Bare()), (3,), labels(7), EMPTY), ALONE)


def test_a_head_has_an_optimizer_of_its_own() -> None:
    chosen = with_overrides(RunConfig(), ["training.optimizers.head.lr=0.25"])
    assert chosen.training.optimizers["head"].lr == 0.25


def test_phases_of_one_role_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two is unusable in every iteration, the second never."""

    class FirstIsNone(WithHead):
        def fake_score_phase(self, networks: Networks, batch: Batch, stream: str = "fake_score"):
            loss = super().fake_score_phase(networks, batch, stream)
            return Loss(math.nan * loss.value, loss.metrics)

    monkeypatch.setitem(methods._TYPES, SiDConfig, FirstIsNone)
    trainer = Trainer(config("training.max_nonfinite=3"), student(), ALONE)
    with pytest.raises(NonFiniteError, match="3 updates of fake_score in a row"):
        trainer.train()
    assert trainer.state.nimg == 3 * 16
    assert [event["nimg"] for event in trainer.state.stability.events] == [0]


def test_a_phase_that_repeats_a_role_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    class SecondIsNone(WithHead):
        def judge(self, networks: Networks, batch: Batch) -> Loss:
            loss = super().judge(networks, batch)
            return Loss(math.nan * loss.value, loss.metrics)

    monkeypatch.setitem(methods._TYPES, SiDConfig, SecondIsNone)
    trainer = Trainer(config("training.max_nonfinite=2"), student(), ALONE)
    with pytest.raises(NonFiniteError, match=r"2 updates of fake_score \(draw 1\) in a row"):
        trainer.train()
    assert trainer.state.skipped_in_a_row["fake_score"] == 0


class OwnTeacher(nn.Module):
    """What a person may bring: points in the plane."""

    latent_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 2)

    def velocity(self, x_t: Tensor, t: Tensor, cond: object = None) -> Tensor:
        moved: Tensor = self.out(torch.cat([x_t, t[:, None]], dim=1))
        return moved


def test_a_students_fewer_steps_are_refused_where_they_are_no_samples() -> None:
    """Of a student made from Python too; others give their first half."""
    drawn = {}
    for name in ("dmd", "kd"):
        brief = [f"method.name={name}", "training.kimg=0.064", "training.batch_size=32"]
        drawn[name] = distill(OwnTeacher(), brief)
    assert drawn["dmd"].sample(2, steps=2).shape == drawn["dmd"].sample(2).shape
    with pytest.raises(RequestError, match="only after all its 4 steps"):
        drawn["kd"].sample(2, steps=2)
    assert torch.equal(drawn["kd"].sample(2, steps=4), drawn["kd"].sample(2))
