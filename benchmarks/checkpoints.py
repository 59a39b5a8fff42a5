"""What 50 checkpoints cost a tiny run: seconds with and without them, in turns.

    python benchmarks/checkpoints.py

Data-free SiD on the embedded digits architecture (random weights) and on a network of 80 numbers,
a checkpoint every other iteration; nothing is evaluated.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.methods import student
from workbench.teachers.base import Conditioning, OwnVelocity
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks, choose_device
from workbench.training.recipes import run_config
from workbench.training.trainer import Trainer

CHECKPOINTS = 50
ROUNDS = 3
BATCH = 16


class Dot(nn.Module):
    """A velocity of 80 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 10), nn.Linear(10, 3)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        value: Tensor = self.outer(torch.tanh(self.inner(torch.cat([x_t, t[:, None]], dim=1))))
        return value


def seconds(taught: DistillationInputs, folder: Path | None) -> float:
    kimg = 2 * CHECKPOINTS * BATCH / 1000
    config = run_config(
        f"training.kimg={kimg}",
        f"training.batch_size={BATCH}",
        f"schedule.checkpoint_kimg={2 * BATCH / 1000}",
    )
    trainer = Trainer(config, taught, Ranks(0, 1, choose_device()), folder)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def main() -> None:
    students = {"digits": student(), "80 numbers": DistillationInputs(OwnVelocity(Dot()), (3,))}
    for name, taught in students.items():
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for kept in times:
                with tempfile.TemporaryDirectory() as folder:
                    times[kept].append(seconds(taught, Path(folder) if kept else None))
        without, with_them = (median(values) for values in times.values())
        print(f"{name:<12} {without:7.2f} s without, {with_them:7.2f} s with {CHECKPOINTS}")


if __name__ == "__main__":
    main()
