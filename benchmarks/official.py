"""The computing plan of the published SiD-DiT scripts beside ours, on one network, equal weights.

    python benchmarks/official.py [--teacher digits-sana] [--iterations 4] [--pairs 5]

The published plan is :mod:`benchmarks.official_plan`, ours the real ``Trainer.train_step``. Both
get the same k = 1, 2, 3, 4 in turn, the same prompts ready encoded and the same precision; with
LoRA the published plan still trains full copies, as its scripts do.

They take turns, iteration by iteration; a pair is one round of each. Times are of the CPU where
there is no GPU, so that other programs on the machine do not count. Peaks count weights, moments
and all else that either takes to build itself and make two iterations, the teacher included.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.official_plan import OfficialPlan
from benchmarks.random_students import named_student
from workbench.flow import NoiseSource
from workbench.training.config import RunConfig
from workbench.training.networks import DistillationInputs
from workbench.training.overrides import with_overrides
from workbench.training.parallel import Ranks, choose_device
from workbench.training.recipes import run_config
from workbench.training.trainer import Trainer

Settings = tuple[str, ...]
LONG_SHORT = ("method.guidance=long-short",)
SHARED = ("method.share_rollout=true",)
CHECKPOINTING = ("training.gradient_checkpointing=true",)
LORA = ('training.lora={"rank": 16}',)
PLANS: dict[str, Settings] = {
    "full copies": (),
    "full copies, shared rollout": SHARED,
    "full copies, guidance 4.5": LONG_SHORT,
    "full copies, guidance 4.5, shared rollout": (*LONG_SHORT, *SHARED),
    "checkpointing": CHECKPOINTING,
    "checkpointing, shared rollout": (*CHECKPOINTING, *SHARED),
    "LoRA": LORA,
    "LoRA, shared rollout": (*LORA, *SHARED),
    "LoRA, guidance 4.5, shared rollout": (*LORA, *LONG_SHORT, *SHARED),
    "LoRA, checkpointing": (*LORA, *CHECKPOINTING),
}
COMPILED: dict[str, Settings] = {"compiled": ("training.compile=true",)}


class Turns(NoiseSource):
    """k as it is set, whatever the seed."""

    k = 1

    def integer(self, stream: str, index: int, high: int) -> int:
        return self.k


class Ours:
    """The real trainer, fed the same k."""

    def __init__(
        self, student: DistillationInputs, config: RunConfig, device: torch.device
    ) -> None:
        self.trainer = Trainer(config, student, Ranks(0, 1, device))
        self.turns = self.trainer.noise = Turns(config.seed)

    def train_step(self, k: int) -> None:
        self.turns.__dict__["k"] = k
        self.trainer.train_step()

    def evaluations(self) -> tuple[int, int]:
        return self.trainer.network_evaluations()


@dataclass(frozen=True)
class Row:
    """Of one plan: seconds a round by pair, peaks in bytes, evaluations an image; ours first."""

    name: str
    seconds: list[tuple[float, float]]
    peaks: tuple[int, int]
    evaluations: tuple[tuple[float, float], tuple[float, float]]

    def text(self, images: int) -> str:
        ratios = sorted(theirs / ours for ours, theirs in self.seconds)
        ours, theirs = (images / median(each) for each in zip(*self.seconds, strict=True))
        counts = " | ".join(f"{f:g} + {b:g}" for f, b in self.evaluations)
        one, other = self.peaks
        return (
            f"| {self.name} | {ours:.1f} | {theirs:.1f} "
            f"| {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) "
            f"| {one / 1e6:.0f} / {other / 1e6:.0f} = {one / other:.2f} | {counts} |"
        )


HEAD = (
    "| plan | images/s ours | official | ratio (lowest to highest pair) | peak MB ours / official "
    "| evaluations an image, forward + backward, ours | official |\n|---|---:|---:|---|---|---|---|"
)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that torch's allocator had given out at once, beyond those before the work."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    alive = peak = 0
    for _, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        alive += size
        peak = max(peak, alive)
    return peak


def two_steps(make: Callable[[], Ours | OfficialPlan]) -> None:
    plan = make()
    plan.train_step(1)
    plan.train_step(1)


def compare(
    name: str,
    ours: Callable[[], Ours],
    official: Callable[[], OfficialPlan],
    device: torch.device,
    iterations: int,
    pairs: int,
) -> Row:
    """Both plans in turn; times after a round that warms up."""
    published = official()
    plans: tuple[Ours | OfficialPlan, ...] = (ours(), published)
    held = published.bytes_in_place
    peaks = (
        held + peak_bytes(partial(two_steps, ours), device),
        held + peak_bytes(partial(two_steps, official), device),
    )
    steps = [1 + i % published.steps for i in range(iterations)]
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds = []
    for pair in range(pairs + 1):
        spent = [0.0, 0.0]
        before = [plan.evaluations() for plan in plans]
        for k in steps if pair else steps[-1:]:
            for which, plan in enumerate(plans):
                began = clock()
                plan.train_step(k)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                spent[which] += clock() - began
        if pair:
            seconds.append((spent[0], spent[1]))
    images = iterations * published.config.training.batch_size
    counts = []
    for plan, (forward, backward) in zip(plans, before, strict=True):
        now = plan.evaluations()
        counts.append(((now[0] - forward) / images, (now[1] - backward) / images))
    return Row(name, seconds, peaks, (counts[0], counts[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="digits-sana", help="embedded, or of the hub catalog")
    parser.add_argument("--iterations", type=int, default=4, help="of a round")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], help="a setting of all plans")
    parser.add_argument("--plans", default="", help="only those whose name has this in it")
    parser.add_argument("--compile", action="store_true", help="also compiled; slow on a CPU")
    parser.add_argument("--unfrozen", action="store_true", help="see OfficialPlan's freezes")
    parser.add_argument("--light", action="store_true", help="see OfficialPlan's light")
    options = parser.parse_args()
    device = choose_device()
    student = named_student(options.teacher, device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device}\n{HEAD}")
    for name, settings in (PLANS | (COMPILED if options.compile else {})).items():
        if options.plans not in name:
            continue
        base = run_config("training.kimg=1e6", f"training.batch_size={options.batch}")
        config = with_overrides(base, [*settings, *options.set])
        row = compare(
            name,
            partial(Ours, student, config, device),
            partial(OfficialPlan, student, config, device, not options.unfrozen, options.light),
            device,
            options.iterations,
            options.pairs,
        )
        print(row.text(options.iterations * options.batch), flush=True)


if __name__ == "__main__":
    main()
