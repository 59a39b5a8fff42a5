from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.training.test_trainer import config, labels
from workbench.errors import MemoryExhaustedError, RequestError, WorkbenchError
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.training.events import Listener
from workbench.training.launch import launch
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import init_distributed
from workbench.training.trainer import Trainer


class Blocks(torch.nn.Module):
    """A residual network with the block structure that FSDP shards."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.inner = torch.nn.Linear(5, 16)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))
        self.outer = torch.nn.Linear(16, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.outer(x)


class BlockVelocity(VelocityNetwork):
    def predict(self, x_t: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        label = cond["label"].to(t)
        return self.module(torch.cat([x_t, t[:, None], label[:, None]], dim=1))


class Losses(Listener):
    def __init__(self) -> None:
        self.values: list[tuple[int, str, float]] = []

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        self.values += [(nimg, k, v) for k, v in values.items() if k.startswith("train/")]


def distil(folder: Path, kimg: float) -> tuple[list[tuple[int, str, float]], int, bool]:
    """Runs on every rank: losses, the evaluations of this rank, and whether k is shared."""
    with init_distributed() as ranks:
        losses = Losses()
        student = DistillationInputs(BlockVelocity(Blocks()), (3,), labels(7))
        settings = config("schedule.log_kimg=0.016", kimg=kimg)
        trainer = Trainer(settings, student, ranks, folder, losses)
        trainer.train()
        counts = ranks.gather(trainer.network_evaluations()[0])
        sharded = any(hasattr(p, "full_tensor") for p in trainer.networks.generator.parameters())
        return losses.values, counts, sharded


def fail_on_rank_one() -> None:
    with init_distributed() as ranks:
        if ranks.rank == 1:
            raise ValueError("rank one has a reason")
        ranks.any(False)  # the healthy rank waits here


def refuse() -> None:
    with init_distributed():
        raise RequestError("the request itself was wrong")


def test_a_refused_request_stays_one() -> None:
    with pytest.raises(RequestError, match=r"^the request itself was wrong$"):
        launch(refuse, 2)


def exhaust() -> None:
    with init_distributed():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore.")


def test_memory_that_a_rank_lacks_is_told_as_such() -> None:
    with pytest.raises(MemoryExhaustedError, match=r"^CUDA out of memory.*GiB\.$"):
        launch(exhaust, 2)


def assert_close(left, right) -> None:
    assert [point[:2] for point in left] == [point[:2] for point in right]
    for (_, name, a), (_, _, b) in zip(left, right, strict=True):
        # Along the direction of a gap that is nearly nothing at first: rounding turns it.
        rel = 1e-3 if name == "train/score_drag" else 1e-5
        assert a == pytest.approx(b, rel=rel, abs=1e-5), name


def test_two_ranks_follow_one(tmp_path: Path) -> None:
    one, _, sharded = distil(tmp_path / "one", 0.4)
    assert not sharded
    two, counts, sharded = launch(distil, 2, tmp_path / "two", 0.4)
    assert sharded
    assert counts[0] == counts[1] > 0
    assert len(one) == 25 * 7
    assert_close(one, two)
    # The checkpoint of two ranks continues on one rank, and the other way round.
    continued, *_ = distil(tmp_path / "two", 0.8)
    one_continued, *_ = launch(distil, 2, tmp_path / "one", 0.8)
    assert len(continued) == 25 * 7
    assert_close(continued, one_continued)


def test_a_failing_rank_is_one_clear_error() -> None:
    with pytest.raises(WorkbenchError, match="Rank 1 failed: ValueError: rank one has a reason"):
        launch(fail_on_rank_one, 2)
