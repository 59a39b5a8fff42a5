"""Peak memory of the published scripts' plan beside ours at true size, without a GPU.

    python benchmarks/official_memory.py [--teacher sana-0.6b-512] [--micro 8]

Both go through two iterations on tensors without memory, as ``training.memory`` does for ours: with
three blocks and with four, and the difference stands for every further one. bf16-mixed, two
micro-batches. The published plan has fused Adam here, whose loops would take more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.official_plan import Draws, OfficialPlan
from benchmarks.random_students import catalog_architecture, empty_network
from workbench.teachers.architecture import Architecture
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import without_weights
from workbench.training.config import RunConfig
from workbench.training.live_bytes import LiveBytes
from workbench.training.memory import estimate_memory
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides

CPU = torch.device("cpu")
CHECKPOINTING = "training.gradient_checkpointing=true"
LORA = 'training.lora={"rank": 64}'
PLANS: dict[str, tuple[str, ...]] = {
    "full copies": (),
    "full copies, checkpointing": (CHECKPOINTING,),
    "LoRA of rank 64": (LORA,),
    "LoRA of rank 64, checkpointing": (LORA, CHECKPOINTING),
}


class FakePlan(OfficialPlan):
    """On fake tensors, whose values nobody can read."""

    def copy(self, dtype: torch.dtype) -> VelocityNetwork:
        network = without_weights(self.student.teacher, dtype, {})
        for module in network.modules():
            for name, value in list(module.named_parameters(recurse=False)):
                empty = torch.empty(value.shape, dtype=value.dtype)
                module.register_parameter(name, nn.Parameter(empty))
        return network

    def read(self, value: Tensor) -> float:
        return 0.0


class FakeDraws(Draws):
    def __init__(self, plan: OfficialPlan, architecture: Architecture) -> None:
        super().__init__(plan)
        self.architecture = architecture

    def batches(self, role: str) -> Iterator[tuple[float, Conditioning]]:
        training = self.plan.config.training
        assert training.micro_batch_size is not None
        for _ in range(0, training.batch_size, training.micro_batch_size):
            share = training.micro_batch_size / training.batch_size
            yield share, self.architecture.prompts(training.micro_batch_size)


def published_peak(architecture: Architecture, config: RunConfig, blocks: int) -> int:
    """Bytes, with so many blocks."""
    few = replace(architecture, transformer={**architecture.transformer, "num_layers": blocks})
    student = DistillationInputs(empty_network(few), few.latent_shape)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, LiveBytes([], lambda: 0) as live:
        plan = FakePlan(student, config, CPU, light=True)
        for _ in range(2):
            plan.train_step(1, FakeDraws(plan, few))
    return live.peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="sana-0.6b-512", help="of one kind of blocks")
    parser.add_argument("--micro", type=int, default=8)
    options = parser.parse_args()
    architecture = catalog_architecture(options.teacher)
    layers: Any = architecture.transformer["num_layers"]
    sizes = [f"batch_size={2 * options.micro}", f"micro_batch_size={options.micro}"]
    settings = [f"training.{each}" for each in (*sizes, "precision=bf16-mixed", "kimg=1e6")]
    published: dict[bool, int] = {}
    print("| plan | GB ours | published plan | ratio |\n|---|---:|---:|---:|")
    for name, own in PLANS.items():
        config = with_overrides(RunConfig(), [*settings, *own])
        key = CHECKPOINTING in own
        if key not in published:
            three, four = (published_peak(architecture, config, blocks) for blocks in (3, 4))
            published[key] = three + (layers - 3) * (four - three)
        ours = estimate_memory(architecture, config).total
        print(
            f"| {name} | {ours / 1e9:.1f} | {published[key] / 1e9:.1f} "
            f"| {ours / published[key]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
