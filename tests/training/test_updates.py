"""An update's way: frames to the network, its reading put off, the spike that is forgotten."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from tests.training.test_trainer import ALONE, Recorder, config, same, student, weights
from workbench.methods import Batch, Loss, Networks, Phase
from workbench.teachers import PipelineTeacher
from workbench.training.checkpoint import checkpoint_path, read_manifest
from workbench.training.events import EventKind, RunEvent
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import local_tensors, squared_norm
from workbench.training.trainer import Trainer

SPIKE = 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_a_spike_is_forgotten(precision: str) -> None:
    """v after a gradient of 1 and n of 0 is (1 - b) b^n; in bfloat16, b v rounds to v."""
    settings = config(f"training.precision={precision}", "training.optimizers.generator.lr=1e-6")
    trainer = Trainer(settings, student(), ALONE)
    optimizer, network = trainer.optimizers["generator"], trainer.networks.generator
    steps, fine = 500, torch.zeros(())
    for step in range(steps + 1):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, SPIKE if step == 0 else 0.0)
        trainer._step(optimizer, fine)
    expected = 0.001 * 0.999**steps
    for state in optimizer.state.values():
        (value,) = local_tensors([state["exp_avg_sq"]])
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-4, atol=0)


def test_a_role_without_a_gradient_counts_nothing() -> None:
    """Also for the device: a scalar of the CPU among others of a GPU is an error there."""
    nothing = squared_norm([torch.nn.Parameter(torch.ones(2))], torch.device("meta"))
    assert (nothing.device.type, nothing.dtype, nothing.shape) == ("meta", torch.float32, ())
    trainer = Trainer(config(), student(), ALONE)
    known = trainer.method.phases

    def aside(networks: Networks, batch: Batch) -> Loss:
        return Loss(torch.zeros((), requires_grad=True) + 1.0, {})

    def phases(nimg: int) -> Sequence[Phase]:
        *others, last = known(nimg)
        return [*others, replace(last, loss=aside)]

    trainer.method.phases = phases  # type: ignore[method-assign]
    trainer.train_step()
    means = trainer.state.take_means()
    assert means["train/generator_grad_norm"] == 0
    assert means["train/fake_score_grad_norm"] > 0


OURS = "/workbench/"


def own_frames_above(frame: FrameType | None) -> list[str]:
    """Functions of the package from a frame up to the trainer's step, without both."""
    found: list[str] = []
    while frame is not None and frame.f_code.co_name != "train_step":
        if OURS in frame.f_code.co_filename:
            found.append(frame.f_code.co_name)
        frame = frame.f_back
    return found if frame is not None else []


def test_few_frames_lie_between_a_step_and_the_network(digits_teacher: PipelineTeacher) -> None:
    """A person who stops in a debugger inside the transformer sees at most five of ours."""
    cond, uncond = digits_teacher.encode(["the digit 7"]), digits_teacher.uncond()
    of = DistillationInputs(digits_teacher.network, digits_teacher.latent_shape, cond, uncond)
    settings = ("training.batch_size=2", "method.guidance.eval_teacher=2")
    trainer = Trainer(config(*settings), of, ALONE)
    seen: dict[str, list[list[str]]] = {}

    def watch(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any) -> None:
            seen.setdefault(name, []).append(own_frames_above(sys._getframe(1)))

        return hook

    networks = {"teacher": trainer.networks.teacher, **trainer.networks.trained}
    for name, network in networks.items():
        network.module.register_forward_pre_hook(watch(name))
    trainer.train_step()
    assert seen.keys() == {"teacher", "fake_score", "generator"}
    for name, calls in seen.items():
        for frames in calls:
            assert 0 < len(frames) <= 5, (name, frames)


class Heard(Recorder):
    """All that a run tells, with what it had counted at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[RunEvent] = []

    def on_events(self, events: Sequence[RunEvent]) -> None:
        self.events = list(events)


def poison(trainer: Trainer, first: int, last: int) -> None:
    """Updates of the fake score have no finite loss between those counts of images."""
    known = trainer.method.phases

    def phases(nimg: int) -> Sequence[Phase]:
        fake_score, *others = known(nimg)
        if not first <= nimg < last:
            return [fake_score, *others]

        def lost(networks: Networks, batch: Batch) -> Loss:
            loss = fake_score.loss(networks, batch)
            return Loss(loss.value * math.nan, {k: v * math.nan for k, v in loss.metrics.items()})

        return [replace(fake_score, loss=lost), *others]

    trainer.method.phases = phases  # type: ignore[method-assign]


def defer(trainer: Trainer) -> list[int]:
    """Read updates as on a GPU, one iteration late; how many were unread after each iteration."""
    take_in, step, unread = trainer._take_in, trainer.train_step, []

    def late() -> None:
        newest = len(trainer.method.phases(0))
        trainer._take_in = lambda all_but: take_in(newest)  # type: ignore[method-assign]
        step()
        trainer._take_in = take_in  # type: ignore[method-assign]
        unread.append(len(trainer._unread))

    trainer.train_step = late  # type: ignore[method-assign]
    return unread


def evaluate(nimg: int, average: torch.nn.Module) -> Mapping[str, float]:
    return {"fid": 1000.0 - nimg}


def test_reading_late_loses_nothing(tmp_path: Path) -> None:
    """Of ten iterations, one of them skipped: the same points, words, checkpoints and bits."""
    ended: list[Any] = []
    for late in (False, True):
        folder, heard = tmp_path / str(late), Heard()
        settings = config("schedule.keep_checkpoints=5", kimg=0.16)
        trainer = Trainer(settings, student(), ALONE, folder, heard, evaluate)
        poison(trainer, 64, 80)
        if late:
            unread = defer(trainer)
        trainer.train()
        states = [read_manifest(checkpoint_path(folder, nimg))["progress"] for nimg in (0, 80, 160)]
        for state in states:
            del state["seconds"]
        assert trainer.state.skipped == 1
        assert len(heard.warnings) == 1
        ended.append((states, heard.points, heard.warnings, weights(trainer)))
    assert unread == [2] * 10
    (*told, ours), (*told_late, theirs) = ended
    assert told == told_late
    assert same(ours, theirs)
    assert told[1]["train/skipped_updates", 96] == 1


def test_what_a_roll_back_left_behind_is_read_but_not_answered(tmp_path: Path) -> None:
    """Updates of the weights that are gone are in no later mean, and cause no second roll-back."""

    class Counts(Heard):
        def on_events(self, events: Sequence[RunEvent]) -> None:
            super().on_events(events)
            if events[-1].kind is EventKind.ROLLBACK:
                left.append((dict(trainer.state.counts), len(trainer._unread)))

    left: list[tuple[dict[str, int], int]] = []
    heard = Counts()
    rollback = ("training.stability.rollback=true", "training.max_nonfinite=2")
    settings = config(*rollback, "schedule.log_kimg=0.32", kimg=0.32)
    trainer = Trainer(settings, student(), ALONE, tmp_path, heard, evaluate)
    poison(trainer, 192, 240)
    defer(trainer)
    trainer.train()
    assert left == [({}, 0)]
    assert trainer.state.stability.rollbacks == 1
    assert trainer.state.skipped == 3
    assert all(value.isfinite().all() for value in weights(trainer))
