from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.helpers import EMPTY, SmallVelocity, labels
from workbench.errors import InterruptedRunError, PrunedRunError, RequestError
from workbench.methods import Loss, Phase
from workbench.teachers.base import OwnVelocity
from workbench.training.checkpoint import (
    average_at,
    average_path,
    damage,
    kept_averages,
    load_modules,
)
from workbench.training.config import AdamConfig, RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.ema import ema_decay
from workbench.training.events import Listener, StopFlag
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.parallel import Ranks
from workbench.training.safe_metadata import read_table
from workbench.training.trainer import NonFiniteError, Trainer

ALONE = Ranks(0, 1, torch.device("cpu"))


def config(*overrides: str, kimg: float = 0.8) -> RunConfig:
    base = RunConfig(
        training=TrainingConfig(kimg=kimg, batch_size=16, ema_halflife_kimg=0.1),
        schedule=ScheduleConfig(log_kimg=0.048, evaluate_kimg=0.16, checkpoint_kimg=0.08),
    )
    return with_overrides(base, overrides)


def student(seed: int = 1) -> DistillationInputs:
    return DistillationInputs(OwnVelocity(SmallVelocity(seed)), (3,), labels(7), EMPTY)


class Recorder(Listener):
    def __init__(self) -> None:
        self.points: dict[tuple[str, int], float] = {}
        self.warnings: list[str] = []

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        self.points |= {(k, nimg): v for k, v in values.items() if not k.startswith("perf/")}

    def on_warning(self, nimg: int, message: str) -> None:
        self.warnings.append(message)


def weights(trainer: Trainer) -> list[torch.Tensor]:
    networks = (*trainer.networks.trained.values(), trainer.average)
    return [p.detach().clone() for network in networks for p in network.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("stop_after", [16, 112, 400])
def test_resuming_is_bit_exact(tmp_path: Path, stop_after: int) -> None:
    """Stopped anywhere, the next trainer ends with the same bits and the same points."""
    whole_points, resumed_points = Recorder(), Recorder()
    whole = Trainer(config(), student(), ALONE, tmp_path / "whole", whole_points)
    whole.train()

    stop = StopFlag()

    class StopThere(Recorder):
        def on_iteration(self, progress) -> None:
            stop.requested = progress.nimg >= stop_after

    first = StopThere()
    folder = tmp_path / "cut"
    with pytest.raises(InterruptedRunError, match="kimg"):
        Trainer(config(), student(), ALONE, folder, first, stop=stop).train()
    resumed = Trainer(config(), student(), ALONE, folder, resumed_points)
    resumed.train()
    assert same(weights(resumed), weights(whole))
    assert {**first.points, **resumed_points.points} == whole_points.points
    assert not first.points.keys() & resumed_points.points.keys()


def test_a_run_that_is_not_worth_finishing_ends_at_an_evaluation(tmp_path: Path) -> None:
    """It keeps a checkpoint there, from which the run could still be finished, bit for bit."""

    class Judge(Recorder):
        def wants_end(self) -> bool:
            asked.append(max(step for _, step in self.points))
            return asked[-1] >= 320

    asked: list[int] = []
    evaluate = {"fid": 1.0}
    with pytest.raises(PrunedRunError, match=r"0\.32 kimg"):
        Trainer(
            config(), student(), ALONE, tmp_path / "cut", Judge(), lambda n, average: evaluate
        ).train()
    assert asked == [160, 320]
    resumed, whole = (
        Trainer(config(), student(), ALONE, tmp_path / name, None, lambda n, average: evaluate)
        for name in ("cut", "whole")
    )
    assert resumed.resume()
    assert resumed.state.nimg == 320
    resumed.train()
    whole.train()
    assert same(weights(resumed), weights(whole))


def test_micro_batches_change_nothing_but_rounding() -> None:
    whole, split = (
        Trainer(config(f"training.micro_batch_size={size}"), student(), ALONE) for size in (16, 5)
    )
    for trainer in (whole, split):
        trainer.train()
    for a, b in zip(weights(whole), weights(split), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-4)


def test_roles_start_as_the_teacher_and_leave_it_alone() -> None:
    source = student()
    before = copy.deepcopy(source.teacher.state_dict())
    trainer = Trainer(config(), source, ALONE)
    for network in (*trainer.networks.trained.values(), trainer.average):
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])
    trainer.train()
    for held in (source.teacher, trainer.networks.teacher):
        assert all(torch.equal(v, before[k]) for k, v in held.state_dict().items())
    assert not torch.equal(
        trainer.networks.generator.module.second, trainer.networks.fake_score.module.second
    )


def averaged(*overrides: str) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """A weight of the generator at the start and after each update, and its average at the end."""
    history: list[torch.Tensor] = []

    class Watch(Listener):
        def on_iteration(self, progress) -> None:
            history.append(weight().detach().clone())

    trainer = Trainer(config(*overrides, kimg=0.16), student(), ALONE, listener=Watch())

    def weight() -> torch.Tensor:
        return trainer.networks.generator.module.first

    start = weight().detach().clone()
    trainer.train()
    return start, history, trainer.average.module.first.detach()


def test_average_is_the_weighted_history() -> None:
    expected, history, average = averaged("training.ema_rampup=null")
    decay = ema_decay(16, 100)
    assert decay == pytest.approx(0.5 ** (16 / 100))
    for value in history:
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average, expected)


def test_the_average_forgets_the_teacher_at_once() -> None:
    """EDM's rule: after n images the half-life is at most ema_rampup n; the first update copies."""
    _, history, average = averaged("training.ema_rampup=0.5")
    expected = history[0]
    for place, value in enumerate(history[1:], start=1):
        decay = 0.5 ** (16 / min(100.0, 0.5 * 16 * place))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(average, expected)


def test_the_best_weights_come_back_at_the_end(tmp_path: Path) -> None:
    """Not the last ones, nor those of a checkpoint near by: the average of the best evaluation."""
    seen: dict[int, torch.Tensor] = {}

    def evaluate(nimg: int, average: OwnVelocity) -> dict[str, float]:
        seen[nimg] = average.module.first.detach().clone()
        return {"fid": 1.0 if nimg == 320 else 2.0}

    trainer = Trainer(config(), student(), ALONE, tmp_path, evaluate=evaluate)
    trainer.train()
    assert torch.equal(trainer.average.module.first, seen[800])
    assert trainer.load_best()
    assert torch.equal(trainer.average.module.first, seen[320])
    assert not torch.equal(seen[320], seen[800])
    shutil.rmtree(average_path(tmp_path, 320))
    assert not trainer.load_best()


def test_every_phase_counts_its_evaluations() -> None:
    """2 k + 3 network evaluations an image (k forward in each phase, then 1 and 2)."""
    seen: dict[tuple[str, int], float] = {}

    class Watch(Listener):
        def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
            seen.update({(k, nimg): v for k, v in values.items()})

    Trainer(
        config("generator.steps=1", "evaluation.student_steps=[1]"),
        student(),
        ALONE,
        listener=Watch(),
    ).train()
    assert {v for (k, _), v in seen.items() if k == "perf/nfe_per_image"} == {5.0}


class Exploding(SmallVelocity):
    """Returns NaN for every call after the given number."""

    def __init__(self, healthy_calls: int) -> None:
        super().__init__(seed=1)
        self.healthy_calls = healthy_calls

    def velocity(self, x_t, t, cond):
        value = super().velocity(x_t, t, cond)
        return value * float("nan") if len(self.evaluated) > self.healthy_calls else value


def test_nonfinite_updates_are_never_applied(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = Trainer(
        config("training.max_nonfinite=3"),
        DistillationInputs(OwnVelocity(Exploding(healthy_calls=30)), (3,)),
        ALONE,
        tmp_path,
        recorder,
    )
    with pytest.raises(NonFiniteError, match=r"3 updates of .* in a row"):
        trainer.train()
    assert all(value.isfinite().all() for value in weights(trainer))
    assert all(
        v["exp_avg_sq"].isfinite().all()
        for o in trainer.optimizers.values()
        for v in o.state.values()
    )
    assert trainer.state.skipped >= 3
    assert "loss" in recorder.warnings[0]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    Trainer(config(), student(), ALONE, tmp_path).train()
    newest, before = sorted(tmp_path.glob("nimg-*"), reverse=True)[:2]
    data = max(newest.glob("*.distcp"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:-100])
    assert "instead of" in damage(newest)
    assert damage(before) is None
    recorder = Recorder()
    trainer = Trainer(config(), student(), ALONE, tmp_path, recorder)
    assert trainer.resume()
    assert (
        trainer.state.nimg == json.loads((before / "manifest.json").read_text())["progress"]["nimg"]
    )
    assert newest.name in recorder.warnings[0]


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    scores = iter([9.0, 5.0, 7.0, 8.0, 6.0, 6.5])
    trainer = Trainer(
        config(), student(), ALONE, tmp_path, evaluate=lambda nimg, net: {"fid": next(scores)}
    )
    state = trainer.train()
    assert (state.best, state.best_nimg) == (5.0, 160)
    assert [path.name for path in sorted(tmp_path.glob("**/nimg-*"))] == [
        "nimg-000000000160",  # in best/
        "nimg-000000000720",
        "nimg-000000000800",
    ]
    best = average_path(tmp_path, 160)
    assert average_at(tmp_path, 160) == best
    assert kept_averages(tmp_path) == [160, 720, 800]
    with (best / ".metadata").open("rb") as table:
        held = read_table(table).state_dict_metadata
    assert held
    assert all(name.startswith("modules.generator_ema.") for name in held)


def test_failing_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """A real write error (file size limit of the process) in the middle of a run."""
    import subprocess
    import sys

    program = f"""
import resource
from pathlib import Path
from tests.training.test_trainer import *
recorder = Recorder()
class FullDisk(Recorder):
    def on_checkpoint(self, nimg, path):
        if nimg == 80:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        if nimg > 80:
            print("UNEXPECTED", nimg)
    def on_warning(self, nimg, message):
        print("WARNED", nimg, message)
folder = Path({str(tmp_path)!r})
Trainer(config(), student(), ALONE, folder, FullDisk()).train()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "UNEXPECTED" not in done.stdout
    assert "WARNED 160 Could not write checkpoint" in done.stdout
    assert "CheckpointError" in done.stderr  # the last one would have held the result
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["nimg-000000000000", "nimg-000000000080"]
    resumed = Trainer(config(), student(), ALONE, tmp_path)
    assert resumed.resume()
    assert resumed.state.nimg == 80


def test_inference_loads_only_the_average(tmp_path: Path) -> None:
    trainer = Trainer(config(), student(), ALONE, tmp_path)
    trainer.train()
    loaded = OwnVelocity(SmallVelocity(seed=99))
    load_modules(max(tmp_path.glob("nimg-*")), {"generator_ema": loaded})
    assert torch.equal(loaded.module.first, trainer.average.module.first)


def test_batch_must_divide_by_ranks() -> None:
    with pytest.raises(RequestError, match="not divisible by 3 ranks"):
        Ranks(0, 3, torch.device("cpu")).local_batch_size(16)


def test_adam_is_as_published() -> None:
    trainer = Trainer(config("training.optimizers.generator.lr=0.25"), student(), ALONE)
    group = trainer.optimizers["generator"].param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.25, (0.0, 0.999), 1e-8)
    assert AdamConfig().beta1 == 0


def test_damaged_checkpoints_take_no_place(tmp_path: Path) -> None:
    """With one kept, a damaged newer one must not push out the only whole one."""
    settings = ("schedule.keep_checkpoints=1", "schedule.checkpoint_kimg=0.4")
    stop = StopFlag()

    class StopSoon(Listener):
        def on_iteration(self, progress) -> None:
            stop.requested = progress.nimg >= 448

    Trainer(config(*settings, kimg=0.4), student(), ALONE, tmp_path).train()
    newer = tmp_path / "nimg-000000000799"
    newer.mkdir()
    with pytest.raises(InterruptedRunError):
        Trainer(config(*settings), student(), ALONE, tmp_path, StopSoon(), stop=stop).train()
    resumed = Trainer(config(*settings), student(), ALONE, tmp_path)
    assert resumed.resume()
    assert resumed.state.nimg == 448


def test_a_checkpoint_continues_only_its_own_recipe(tmp_path: Path) -> None:
    Trainer(config(), student(), ALONE, tmp_path).train()
    for other in ("method.sid_alpha=1.2", "seed=5", "training.batch_size=32"):
        with pytest.raises(RequestError, match="another recipe or teacher"):
            Trainer(config(other), student(), ALONE, tmp_path).train()
    longer = Trainer(config("training.kimg=1.6"), student(), ALONE, tmp_path)
    assert longer.resume()


def test_means_are_over_applied_updates(tmp_path: Path) -> None:
    """One broken iteration in an interval leaves the mean of the healthy ones."""
    logged: dict[str, float] = {}

    class Watch(Listener):
        def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
            logged.update(values)

    def run(broken: bool) -> float:
        trainer = Trainer(config("schedule.log_kimg=0.8"), student(), ALONE, listener=Watch())
        phases = trainer.method.phases(0)
        calls = iter(range(10_000))

        def fake_score(networks, batch):
            loss = phases[0].loss(networks, batch)
            poison = float("nan") if broken and next(calls) % 5 == 4 else 1.0
            ones = {name: torch.tensor(poison) for name in loss.metrics}
            return Loss(loss.value * poison, ones)

        trainer.method.phases = lambda nimg: (Phase(("fake_score",), fake_score), phases[1])
        trainer.train()
        return logged["train/fake_score_loss"]

    assert run(broken=False) == run(broken=True) == 1.0
    assert logged["train/skipped_updates"] == 10


def test_writing_checkpoints_changes_no_weight(tmp_path: Path) -> None:
    """torch makes an optimizer's moments by a step that it counts, if a checkpoint asks first."""
    kept = Trainer(config(kimg=0.16), student(), ALONE, tmp_path)
    alone = Trainer(config(kimg=0.16), student(), ALONE)
    for trainer in (kept, alone):
        trainer.train()
    assert same(weights(kept), weights(alone))
