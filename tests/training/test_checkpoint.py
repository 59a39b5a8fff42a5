"""Checkpoints are written while training goes on, and what is on the disk is always whole."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.helpers import labels
from tests.training.test_parallel import Blocks, BlockVelocity
from tests.training.test_trainer import ALONE, Recorder, config, same, student, weights
from workbench.errors import InterruptedRunError
from workbench.training import checkpoint, checkpoint_folder
from workbench.training.checkpoint import (
    CheckpointError,
    UnwrittenCheckpointError,
    average_path,
    checkpoint_path,
    damage,
    kept_averages,
    load_modules,
)
from workbench.training.events import Progress, StopFlag
from workbench.training.launch import launch
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import init_distributed
from workbench.training.trainer import Trainer


class Slow(checkpoint._FolderWriter):
    """Writes the whole checkpoint of so many images only once it may."""

    nimg = 0
    begun, may = threading.Event(), threading.Event()

    def write_data(self, plan, planner):
        if self.final.name.endswith(f"{self.nimg:012d}") and self.final.parent.name != "best":
            self.begun.set()
            assert self.may.wait(60)
        return super().write_data(plan, planner)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    monkeypatch.setattr(Slow, "nimg", 80)
    monkeypatch.setattr(Slow, "begun", threading.Event())
    monkeypatch.setattr(Slow, "may", threading.Event())
    monkeypatch.setattr(checkpoint, "_FolderWriter", Slow)
    monkeypatch.setattr(checkpoint_folder, "_SMALL", -1)
    yield Slow
    Slow.may.set()


class Told(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.checkpoints: list[int] = []
        self.notes: list[str] = []

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        assert damage(path) is None
        self.checkpoints.append(nimg)

    def on_note(self, message: str) -> None:
        self.notes.append(message)


def test_training_goes_on_while_a_slow_disk_writes(tmp_path: Path, slow: type[Slow]) -> None:
    """And what is written is as it was when the write began."""

    class Watch(Told):
        def on_iteration(self, progress: Progress) -> None:
            if progress.nimg == 144:
                assert slow.begun.wait(60)
                assert self.checkpoints == [0]
                assert not checkpoint_path(tmp_path, 80).exists()
                slow.may.set()

    heard = Watch()
    trainer = Trainer(config("schedule.keep_checkpoints=20"), student(), ALONE, tmp_path, heard)
    trainer.train()
    assert heard.checkpoints == list(range(0, 801, 80))
    until_then = Trainer(config(kimg=0.08), student(), ALONE)
    until_then.train()
    trainer.checkpoints.restore(checkpoint_path(tmp_path, 80), trainer.stateful())
    assert same(weights(trainer), weights(until_then))


def test_what_is_being_written_is_waited_for_where_it_is_looked_for(
    tmp_path: Path, slow: type[Slow]
) -> None:
    slow.nimg = 16
    trainer = Trainer(config(), student(), ALONE, tmp_path)
    trainer.train_step()
    trainer._checkpoint.write(trainer)
    assert slow.begun.wait(60)
    threading.Timer(0.3, slow.may.set).start()
    assert trainer.checkpoints.newest(16) == checkpoint_path(tmp_path, 16)


def test_a_moment_is_not_written_twice(tmp_path: Path) -> None:
    """Stopped where a checkpoint has just been written, and again after a resume."""
    stop, heard = StopFlag(), Told()
    heard.on_iteration = lambda progress: setattr(stop, "requested", progress.nimg >= 80)
    for _ in range(2):
        with pytest.raises(InterruptedRunError):
            Trainer(config(), student(), ALONE, tmp_path, heard, stop=stop).train()
    assert heard.checkpoints == [0, 80]


def judge(nimg: int, average: object) -> dict[str, float]:
    """Best at 160; the one at 0 before it."""
    return {"fid": {0: 5.0, 160: 3.9}.get(nimg, 4.0)}


KILLED = """
from pathlib import Path
from tests.training.test_checkpoint import *
Slow.nimg = {at}
checkpoint._FolderWriter = Slow
checkpoint_folder._SMALL = -1
Trainer(config({every!r}), student(), ALONE, Path({folder!r}), evaluate=judge).train()
"""


@pytest.mark.parametrize(("kimg", "at", "newest"), [(0.08, 160, 80), (0.24, 240, 0)])
def test_killed_while_it_writes_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, kimg: float, at: int, newest: int
) -> None:
    """Between the best average and the checkpoint that names it as the best: in one write, in two.

    The best before it stays until then.
    """
    folder, every = tmp_path / "killed", f"schedule.checkpoint_kimg={kimg}"
    program = KILLED.format(folder=str(folder), at=at, every=every)
    with subprocess.Popen([sys.executable, "-c", program]) as run:
        deadline = time.monotonic() + 60
        while not (folder / f".partial-nimg-{at:012d}").exists():
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
    assert kept_averages(folder) == sorted({0, newest, 160})
    heard = Told()
    resumed = Trainer(config(every), student(), ALONE, folder, heard, judge)
    assert resumed.resume()
    assert (resumed.state.nimg, resumed.state.best_nimg) == (newest, 0)
    assert average_path(folder, 0).is_dir()
    resumed.train()
    whole = Trainer(config(every), student(), ALONE, tmp_path / "whole", evaluate=judge)
    whole.train()
    assert heard.warnings == []
    for name in ("killed", "whole"):
        names = sorted(p.relative_to(tmp_path / name) for p in (tmp_path / name).glob("**/nimg-*"))
        assert names == [
            Path("best/nimg-000000000160"),
            Path("nimg-000000000720"),
            Path("nimg-000000000800"),
        ]
    assert same(weights(resumed), weights(whole))
    for trainer in (resumed, whole):
        assert trainer.state.best_nimg == 160
        assert trainer.load_best()
    assert same(weights(resumed), weights(whole))


def test_a_best_that_is_a_whole_checkpoint_stays(tmp_path: Path) -> None:
    """As earlier versions kept it."""
    Trainer(config(kimg=0.16), student(), ALONE, tmp_path, evaluate=judge).train()
    shutil.rmtree(tmp_path / "best")
    trainer = Trainer(config(), student(), ALONE, tmp_path, evaluate=judge)
    trainer.train()
    assert kept_averages(tmp_path) == [160, 720, 800]
    assert trainer.load_best()


def test_a_better_score_alone_writes_one_network(tmp_path: Path) -> None:
    """No checkpoint to go on from: what comes before it stays the newest."""
    settings = config("schedule.checkpoint_kimg=10", "schedule.keep_checkpoints=5", kimg=0.32)
    heard = Told()
    Trainer(settings, student(), ALONE, tmp_path, heard, judge).train()
    assert heard.checkpoints == [0, 320]
    assert kept_averages(tmp_path) == [0, 160, 320]
    average, whole = (
        sum(file.stat().st_size for file in path.glob("*.distcp"))
        for path in (average_path(tmp_path, 160), checkpoint_path(tmp_path, 320))
    )
    assert average < whole / 5


def test_a_failed_write_is_a_warning_until_it_must_be(tmp_path: Path) -> None:
    (tmp_path / "best").write_text("in the way")
    scores = iter([5.0, 4.0, 4.5, 4.5, 4.5, 3.0])
    heard = Told()
    trainer = Trainer(
        config(), student(), ALONE, tmp_path, heard, lambda nimg, net: {"fid": next(scores)}
    )
    with pytest.raises(UnwrittenCheckpointError, match=r"Could not write checkpoint \S+nimg-0+800"):
        trainer.train()
    assert [text.split(":")[0][-4:] for text in heard.warnings] == ["0000", "0160"]
    assert all("Training goes on." in text for text in heard.warnings)
    assert heard.checkpoints == [80, *range(240, 721, 80)]
    assert not list(tmp_path.glob(".partial-*"))


def test_a_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**9]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))

    class Filled(Told):
        def on_iteration(self, progress: Progress) -> None:
            free[0] = 100 if progress.nimg > 80 else 10**9

    heard = Filled()
    folder = tmp_path / "not yet" / "there"
    trainer = Trainer(config(), student(), ALONE, folder, heard)
    with pytest.raises(
        CheckpointError, match=r"it takes .* lower schedule\.keep_checkpoints"
    ) as error:
        trainer.train()
    assert "\n" not in str(error.value)
    assert heard.checkpoints == [0, 80]
    assert [text.split(":")[0] for text in heard.warnings] == ["Could not write a checkpoint"] * 8
    (note,) = heard.notes
    assert note.startswith("A checkpoint takes 0.0 MiB; up to 2 are kept")
    again = Told()
    settings = config("schedule.keep_checkpoints=20")
    with pytest.raises(CheckpointError):
        Trainer(settings, student(), ALONE, folder, again).train()
    assert "Checkpoints will take" in again.warnings[0]


class HalfBroken(checkpoint._FolderWriter):
    """Rank 1 is slow, and cannot write the checkpoint of 160 images."""

    def write_data(self, plan, planner):
        if self.rank == 1:
            time.sleep(0.3)
            if self.final.name.endswith("0160"):
                raise OSError(28, "No space left on rank one's disk")
        return super().write_data(plan, planner)


def half_broken(folder: Path, kimg: float) -> tuple[list[int], list[str], bool]:
    """On every rank: what the first heard, and whether an error that must be was raised."""
    checkpoint._FolderWriter = HalfBroken
    with init_distributed() as ranks:
        heard, failed = Told(), False
        settings = config("schedule.keep_checkpoints=20", kimg=kimg)
        trainer = Trainer(
            settings,
            DistillationInputs(BlockVelocity(Blocks()), (3,), labels(7)),
            ranks,
            folder,
            heard,
            judge,
        )
        try:
            trainer.train()
        except UnwrittenCheckpointError:
            failed = True
        return heard.checkpoints, heard.warnings, ranks.gather(failed) == [True, True]


def test_two_ranks_write_in_the_background_and_fail_together(tmp_path: Path) -> None:
    checkpoints, warnings, failed = launch(half_broken, 2, tmp_path / "long", 0.32)
    assert checkpoints == [0, 80, 240, 320]
    assert len(warnings) == 1
    assert "No space left on rank one's disk. Training goes on." in warnings[0]
    assert not failed
    assert kept_averages(tmp_path / "long") == [0, 80, 240, 320]
    *_, failed = launch(half_broken, 2, tmp_path / "short", 0.16)
    assert failed
    left = sorted(p.name for p in (tmp_path / "short").glob("*nimg-*"))
    assert left == ["nimg-000000000000", "nimg-000000000080"]
    # What two ranks wrote while they trained on is what they had: one rank alone comes to the same.
    alone = Trainer(
        config(kimg=0.08), DistillationInputs(BlockVelocity(Blocks()), (3,), labels(7)), ALONE
    )
    alone.train()
    theirs = BlockVelocity(Blocks())
    load_modules(checkpoint_path(tmp_path / "long", 80), {"generator_ema": theirs})
    for mine, other in zip(alone.average.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
