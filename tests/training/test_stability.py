"""Instabilities: each detector on numbers, then runs driven unstable on purpose."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.helpers import labels
from tests.training.test_parallel import Blocks, BlockVelocity
from tests.training.test_trainer import ALONE, Recorder, same, weights
from workbench.errors import InterruptedRunError, RequestError
from workbench.flow.noise import NoiseSource
from workbench.methods import Batch, FewStepSampler, GeneratorConfig
from workbench.methods.sid import score_drag, score_gap
from workbench.teachers.base import OwnVelocity, VelocityNetwork
from workbench.training.config import RunConfig, ScheduleConfig, TrainingConfig
from workbench.training.events import EventKind, Progress, RunEvent, StopFlag
from workbench.training.launch import launch
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.parallel import full_state_dict, init_distributed
from workbench.training.stability import (
    SCORE_DRAG,
    SCORE_GAP,
    Stability,
    StabilityConfig,
    blow_up_limit,
)
from workbench.training.trainer import Evaluate, NonFiniteError, Trainer

DEFAULT = StabilityConfig()
ROLLBACK = "training.stability.rollback=true"
TOO_FAST_AT = 2560


class Events(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.events: list[RunEvent] = []

    def on_events(self, events: Sequence[RunEvent]) -> None:
        self.events.append(events[-1])
        assert list(events) == self.events[-len(events) :]

    @property
    def kinds(self) -> list[EventKind]:
        return [event.kind for event in self.events]


def losses(values: Sequence[float], settings: StabilityConfig = DEFAULT) -> list[RunEvent]:
    watch = Stability()
    return [
        event
        for place, value in enumerate(values)
        for event in watch.observe_losses(settings, place, {"train/a_loss": value, "train/b": 1e9})
    ]


def test_a_blow_up_is_one_event_and_noise_is_none() -> None:
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    quiet = [50 + 5 * value for value in noise]
    assert losses(quiet) == []
    assert losses([value - 50 for value in quiet]) == []  # a loss around 0, of either sign
    (event,) = losses([*quiet, 400.0, 900.0, 700.0, *quiet])
    assert (event.kind, event.nimg, event.value) == (EventKind.LOSS_BLOW_UP, 200, 400.0)
    assert "train/a_loss blew up: 400" in event.message
    assert [event.nimg for event in losses([*quiet, 400.0, 50.0, -400.0])] == [200, 202]
    assert losses([*quiet, 140.0]) == []
    assert [e.value for e in losses([*quiet, 155.0], StabilityConfig(loss_threshold=5))] == [155.0]


def test_limits_are_median_and_deviation() -> None:
    assert blow_up_limit([1.0] * 7, 10) == math.inf
    assert blow_up_limit([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0], 10) == pytest.approx(
        5 + 10 * 1.4826 * 2
    )
    assert blow_up_limit([2.0] * 9, 10) == 6.0


def test_a_level_that_moves_slowly_is_followed() -> None:
    """Fifty times the first level, in steps of five in a hundred: no blow-up, and no event."""
    assert losses([1.05**place for place in range(80)]) == []


def test_a_jump_of_fid_is_one_event() -> None:
    watch = Stability()
    fids = [30, 9, 10, 20, 25, 9, 12]
    heard = [watch.observe_score(place, "fid", fid) for place, fid in enumerate(fids)]
    assert [len(events) for events in heard] == [0, 0, 0, 1, 0, 0, 1]
    assert heard[3][0].kind is EventKind.FID_JUMP
    assert heard[3][0].message == "FID jumped to 20, from 9 at best."
    (lost,) = watch.observe_score(7, "fid", 8.0) + watch.observe_score(8, "fid", math.nan)
    assert (lost.nimg, lost.value) == (8, None)


def test_drag_tells_how_far_the_fake_score_has_come() -> None:
    """Posterior means in closed form: a part l of the way left is l / (1 - l) times the gap."""
    generator = torch.Generator().manual_seed(0)
    # x_g ~ N(0, 1), the teacher's data ~ N(2, 1), both seen at t = 0.5: x_t = (x_0 + eps) / 2.
    x_g = torch.randn(200_000, 4, generator=generator)
    x_t = (x_g + torch.randn(x_g.shape, generator=generator)) / 2
    optimum, teacher = x_t, 2 + (x_t - 1)
    for left in (0.0, 0.25, 0.75):
        fake = optimum + left * (teacher - optimum)
        ratio = score_drag(x_g, teacher, fake) / score_gap(teacher, fake)
        assert ratio == pytest.approx(left / (1 - left), abs=0.01)
    assert score_drag(x_g, teacher, teacher) == 0  # no gap: finite, or the update were skipped


def test_only_a_lag_that_stays_is_an_event() -> None:
    def heard(lags: Sequence[float]) -> list[float | None]:
        watch = Stability()
        return [
            event.value
            for place, lag in enumerate(lags)
            for event in watch.observe_losses(
                DEFAULT, place, {SCORE_GAP: 0.5, SCORE_DRAG: 0.5 * lag}
            )
        ]

    assert heard([0.6] * 64) == []
    assert heard([20 * 0.8**place for place in range(64)]) == []  # it is still catching up
    assert heard([3.0] * 64) == [pytest.approx(3.0)]


class Gaussian(torch.nn.Module):
    """The exact velocity of data N(mean, std^2) in two dimensions, with these as its weights."""

    latent_shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor([1.0, -0.5]))
        self.log_std = torch.nn.Parameter(torch.tensor([-1.0, -0.5]))

    def velocity(self, x_t, t, cond):
        t = t[:, None]
        signal = (1 - t) * (2 * self.log_std).exp()
        away = (x_t - (1 - t) * self.mean) / ((1 - t) * signal + t.square())
        return t * away - (self.mean + signal * away)


def frechet(nimg: int, average: VelocityNetwork) -> dict[str, float]:
    """Of the student's samples to the teacher's data, both as normals with independent axes."""
    sampler = FewStepSampler(GeneratorConfig())
    batch = Batch(0, 1000, None, 4, NoiseSource(7), (2,), torch.device("cpu"))
    truth = Gaussian()
    with torch.no_grad():
        samples = sampler.sample(average, None, batch.steps("test"))
        mean = (samples.mean(0) - truth.mean).square().sum()
        std = (samples.std(0) - truth.log_std.exp()).square().sum()
    return {"fid": float(mean + std)}


def score(trainer: Trainer) -> dict[str, float]:
    return frechet(0, trainer.average)


class Overdriven(Events):
    """Multiplies the learning rates at some point, as a bad schedule would."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.trainer: Trainer | None = None
        self.stop, self.stop_at = StopFlag(), stop_at

    def on_iteration(self, progress: Progress) -> None:
        self.stop.requested = progress.nimg == self.stop_at
        if progress.nimg == TOO_FAST_AT:
            self.trainer.set_rates(100.0)


def small() -> RunConfig:
    return with_overrides(
        RunConfig(
            training=TrainingConfig(kimg=3.84, batch_size=64, ema_halflife_kimg=0.1),
            schedule=ScheduleConfig(log_kimg=0.064, evaluate_kimg=0.64, checkpoint_kimg=0.64),
        ),
        [f"training.optimizers.{role}.lr=5e-3" for role in ("generator", "fake_score")],
    )


def run(
    folder: Path | None,
    *more: str,
    heard: Events | None = None,
    train: bool = True,
    judge: Evaluate = frechet,
) -> Trainer:
    heard = heard or Events()
    stop = heard.stop if isinstance(heard, Overdriven) else None
    teacher = DistillationInputs(OwnVelocity(Gaussian()), (2,))
    settings = with_overrides(small(), more)
    trainer = Trainer(settings, teacher, ALONE, folder, heard, judge, stop)
    if isinstance(heard, Overdriven):
        heard.trainer = trainer
    if train:
        trainer.train()
    return trainer


def test_a_quiet_run_has_no_event(tmp_path: Path) -> None:
    heard = Events()
    watching = run(tmp_path / "watching", ROLLBACK, heard=heard)
    assert heard.events == heard.warnings == watching.state.stability.events == []
    assert same(weights(watching), weights(run(tmp_path / "plain")))


def test_an_overdriven_run_is_noticed_and_goes_back(tmp_path: Path) -> None:
    left, back = Overdriven(), Overdriven()
    without = run(tmp_path / "left", heard=left)
    rolled = run(tmp_path / "back", ROLLBACK, heard=back)
    assert {EventKind.LOSS_BLOW_UP, EventKind.FID_JUMP} <= set(left.kinds)
    assert EventKind.ROLLBACK not in left.kinds
    assert back.kinds == [EventKind.LOSS_BLOW_UP, EventKind.LOSS_BLOW_UP, EventKind.ROLLBACK]
    assert [event.as_dict() for event in back.events] == rolled.state.stability.events
    assert [event.message for event in back.events] == back.warnings
    assert "to the weights of 2.56 kimg; learning rates are now 0.5 times" in back.warnings[-1]
    assert {o.param_groups[0]["lr"] for o in rolled.optimizers.values()} == {2.5e-3}
    # At the end; a run that ends as well as it was half way ends better than one that collapsed.
    fids = [score(trainer)["fid"] for trainer in (rolled, without)]
    assert fids[0] < back.points["eval/fid", TOO_FAST_AT] < fids[1] / 5


def test_it_goes_back_to_weights_moments_and_average(tmp_path: Path) -> None:
    """Of the checkpoint at 2.56 kimg; what the run has counted since then stays."""
    seen: list[list[torch.Tensor]] = []

    class Watch(Overdriven):
        def on_iteration(self, progress: Progress) -> None:
            super().on_iteration(progress)
            if progress.nimg in (TOO_FAST_AT, self.events[-1].nimg if self.events else None):
                moments = [v for o in self.trainer.optimizers.values() for v in o.state.values()]
                tensors = [m[key].clone() for m in moments for key in ("exp_avg_sq", "step")]
                seen.append(weights(self.trainer) + tensors)

    trainer = run(tmp_path, ROLLBACK, heard=Watch())
    assert len(seen) == 2
    assert same(*seen)
    assert trainer.state.nimg == 3840


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """The overdriven run that goes back, uninterrupted."""
    return run(tmp_path_factory.mktemp("whole"), ROLLBACK, heard=Overdriven())


@pytest.mark.parametrize("stop_at", [2624, 2688, 2752, 3776])
def test_resuming_across_a_roll_back_is_bit_exact(
    tmp_path: Path, whole: Trainer, stop_at: int
) -> None:
    """Stopped before it, at it, right after it and late."""
    first, second = Overdriven(stop_at), Overdriven()
    with pytest.raises(InterruptedRunError):
        run(tmp_path / "cut", ROLLBACK, heard=first)
    resumed = run(tmp_path / "cut", ROLLBACK, heard=second, train=False)
    if stop_at < 2688:
        second.on_start = lambda progress: resumed.set_rates(100.0)
    resumed.train()
    assert same(weights(resumed), weights(whole))
    assert resumed.state.stability == whole.state.stability
    assert first.events + second.events == [RunEvent(**e) for e in whole.state.stability.events]


def test_a_collapse_at_the_last_evaluation_is_not_the_result(tmp_path: Path) -> None:
    """What was measured last is what the run ends with, as the final table takes it over."""
    heard = Events()
    measured: list[tuple[int, float]] = []

    def judge(nimg: int, average: VelocityNetwork) -> dict[str, float]:
        first = not any(at == nimg for at, _ in measured)
        measured.append((nimg, frechet(nimg, average)["fid"]))
        return {"fid": 9.0} if nimg == 3840 and first else {"fid": measured[-1][1]}

    trainer = run(tmp_path, ROLLBACK, heard=heard, judge=judge)
    assert heard.kinds == [EventKind.FID_JUMP, EventKind.ROLLBACK]
    assert [nimg for nimg, _ in measured][-2:] == [3840, 3840]
    assert measured[-1][1] == score(trainer)["fid"] == measured[-3][1]


def test_roll_backs_run_out(tmp_path: Path) -> None:
    """Each evaluation after the first is a collapse: two roll-backs, then reports alone."""
    heard = Events()
    fids = iter([1.0, *(9.0 * 9**place for place in range(8))])
    trainer = run(
        tmp_path,
        ROLLBACK,
        "training.stability.max_rollbacks=2",
        "training.stability.lr_factor=0.1",
        heard=heard,
        judge=lambda nimg, average: {"fid": next(fids)},
    )
    jump, back = EventKind.FID_JUMP, EventKind.ROLLBACK
    assert heard.kinds == [jump, back, jump, back, jump]
    assert [event.nimg for event in heard.events] == [640, 640, 1280, 1280, 1920]
    assert trainer.optimizers["generator"].param_groups[0]["lr"] == pytest.approx(5e-5)


def test_the_good_checkpoint_is_kept_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    class Break(Overdriven):
        def on_iteration(self, progress: Progress) -> None:
            super().on_iteration(progress)
            if progress.nimg == 2624:
                self.trainer.checkpoints.finish()
                kept = sorted(int(path.name[5:]) for path in tmp_path.glob("nimg-*"))
                assert kept == [1920, 2560]
                (tmp_path / "nimg-000000002560" / "manifest.json").write_text("{")

    heard = Break()
    run(tmp_path, ROLLBACK, heard=heard)
    assert "nimg-000000002560 is damaged" in heard.warnings[-2]
    assert "Rolled back to the weights of 1.92 kimg" in heard.warnings[-1]


def test_updates_that_stay_unusable_lead_back_too(tmp_path: Path) -> None:
    class Poison(Overdriven):
        def on_iteration(self, progress: Progress) -> None:
            weights = [self.trainer.networks.fake_score.module.mean]
            if progress.nimg == TOO_FAST_AT:
                weights[0].data.fill_(math.nan)

    heard = Poison()
    trainer = run(tmp_path, ROLLBACK, "training.max_nonfinite=3", heard=heard)
    assert heard.kinds.count(EventKind.ROLLBACK) == 1
    assert heard.kinds[:2] == [EventKind.NON_FINITE] * 2  # a stretch for each phase
    assert trainer.state.nimg == 3840
    assert all(value.isfinite().all() for value in weights(trainer))
    with pytest.raises(NonFiniteError, match=r"3 updates of .* in a row"):
        run(tmp_path / "left", "training.max_nonfinite=3", heard=Poison())


def test_without_a_good_checkpoint_unusable_updates_end_the_run(tmp_path: Path) -> None:
    class Poison(Overdriven):
        def on_iteration(self, progress: Progress) -> None:
            if progress.nimg == TOO_FAST_AT:
                self.trainer.networks.fake_score.module.mean.data.fill_(math.nan)
                self.trainer.checkpoints.finish()
                for kept in tmp_path.glob("nimg-*"):
                    shutil.rmtree(kept)

    heard = Poison()
    with pytest.raises(NonFiniteError, match="in a row"):
        run(tmp_path, ROLLBACK, "training.max_nonfinite=3", heard=heard)
    assert "No good checkpoint is left to roll back to." in heard.warnings


def test_what_was_left_behind_is_in_no_later_mean(tmp_path: Path) -> None:
    """A roll-back between two logs: the next one speaks of what came after it."""

    class Counts(Events):
        def on_events(self, events: Sequence[RunEvent]) -> None:
            super().on_events(events)
            if events[-1].kind is EventKind.ROLLBACK:
                left.append(dict(trainer.state.counts))

    left: list[dict[str, int]] = []
    fids = iter([1.0, 9.0, *[1.0] * 8])
    judge = lambda nimg, average: {"fid": next(fids)}  # noqa: E731
    more = (ROLLBACK, "schedule.log_kimg=1.28")
    trainer = run(tmp_path, *more, heard=Counts(), judge=judge, train=False)
    trainer.train()
    assert left == [{}]


def test_a_roll_back_needs_checkpoints() -> None:
    with pytest.raises(RequestError, match="rollback needs a folder"):
        run(None, ROLLBACK)


def test_ranks_go_back_together(tmp_path: Path) -> None:
    told = launch(on_ranks, 2, tmp_path)
    assert told[0] == told[1]
    assert [kind for kind, _ in told[0][1]] == ["fid_jump", "rollback"]


def on_ranks(folder: Path) -> list[tuple[float, list[tuple[str, int]], list[float]]]:
    """Runs on every rank: rate, events, and what the mean weights sum to."""
    with init_distributed() as ranks:
        fids = iter([1.0, 1.0, 9.0, *[1.0] * 9] if ranks.is_main else [1.0] * 12)
        settings = with_overrides(small(), [ROLLBACK, "training.kimg=1.92"])
        teacher = DistillationInputs(BlockVelocity(Blocks()), (3,), labels(7))
        judge = lambda nimg, average: {"fid": next(fids)}  # noqa: E731
        trainer = Trainer(settings, teacher, ranks, folder, None, judge)
        trainer.train()
        rate = trainer.optimizers["generator"].param_groups[0]["lr"]
        events = [(e["kind"], e["nimg"]) for e in trainer.state.stability.events]
        total = [float(v.sum()) for v in full_state_dict(trainer.average).values()]
        return ranks.gather((rate, events, total))


def test_settings_that_change_nothing_change_no_hash() -> None:
    """Those of runs from before there was such a group: tests/training/test_formats.py."""
    plain = RunConfig()
    watched = with_overrides(plain, ["training.stability.loss_threshold=5"])
    rolling = with_overrides(plain, [ROLLBACK])
    assert len({c.fingerprint() for c in (plain, watched, rolling)}) == 3
    assert plain.recipe_fingerprint() == watched.recipe_fingerprint()
    often = with_overrides(rolling, ["schedule.log_kimg=0.128"])
    assert len({c.recipe_fingerprint() for c in (plain, rolling, often)}) == 3
