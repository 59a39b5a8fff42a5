"""The computing plan of the published SiD-DiT scripts beside ours, on one network, equal weights.

    python benchmarks/official.py [--teacher digits-sana] [--iterations 4] [--pairs 5]

The published plan, as plain torch: a rollout for the fake score and another for the generator, a
full copy of the network for every role and for the average, Adam and the average in torch's default
loops, both losses read by the host in every iteration. Ours is the real ``Trainer.train_step``.
Both get the same k = 1, 2, 3, 4 in turn, the same prompts ready encoded and the same precision.
Text encoders, gradient scans and reports of the published scripts are left out, in their favor.

They take turns, iteration by iteration; a pair is one round of each. Times are of the CPU where
there is no GPU, so that other programs on the machine do not count. Peaks count weights, moments
and all else that either takes to build itself and make two iterations, the teacher included.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.random_students import named_student
from workbench.flow import NoiseSource, get_density
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import (
    ModuleWeights,
    fill,
    give_memory,
    on_meta,
    sharing_memory,
    stored,
    without_weights,
)
from workbench.training.config import RunConfig
from workbench.training.ema import ema_decay
from workbench.training.networks import Student
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


class OfficialPlan:
    """One iteration of the published scripts, in plain torch.

    Args:
        student: the teacher and its prompts; its weights are not modified.
        config: scales, density, learning rates, batch, precision and checkpointing are taken.
        freezes: the fake score's weights gather no gradient in the generator's update, as the
            published scripts have it; else one gathers there and is thrown away.
        light: fused Adam and the average in one call, as ours; not what the scripts do.
    """

    def __init__(
        self,
        student: Student,
        config: RunConfig,
        device: torch.device,
        freezes: bool = True,
        light: bool = False,
    ) -> None:
        self.config, self.student, self.device, self.freezes = config, student, device, freezes
        self.light, self.steps = light, config.generator.steps
        self.mixed = config.training.precision != "fp32"
        self.density = get_density(config.method.density, config.method.t_range)
        self.bytes_in_place = 0  # of a teacher that is the student's own, not a copy
        self.teacher = self._network(trained=False)
        self.generator, self.fake_score = self._network(), self._network()
        self.average = self._network(dtype=torch.float32, trained=False)
        self.uncond = student.uncond.to(device) if student.uncond else None
        self.optimizers = {
            role: torch.optim.Adam(
                getattr(self, role).parameters(),
                lr=settings.lr,
                betas=(settings.beta1, settings.beta2),
                eps=settings.eps,
                fused=True if light else None,
            )
            for role, settings in config.training.optimizers.items()
        }

    def _network(self, dtype: torch.dtype | None = None, trained: bool = True) -> VelocityNetwork:
        source, weights = self.student.teacher, self.student.weights
        frozen = torch.bfloat16 if self.mixed else torch.float32
        kind = torch.float32 if trained else dtype or frozen
        here = not on_meta(source) and next(source.parameters()).device == self.device
        if dtype is None and not trained and kind is torch.float32 and here:
            network = sharing_memory(source)
            self.bytes_in_place = sum(value.nbytes for value in network.parameters())
        else:
            network = without_weights(source, kind)
            give_memory(network, self.device)
            fill(stored(network.module), weights or ModuleWeights(source.module))
        network.train(False).requires_grad_(trained)
        network.evaluations = network.backward_evaluations = 0
        if network.distilled_guidance is not None and (trained or dtype):
            network.distilled_guidance = self.config.generator.distilled_guidance
        if self.config.training.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return network

    def train_step(self, k: int, draws: Draws | None = None) -> tuple[float, float]:
        """Both updates with k generator steps; the unscaled losses of fake score and generator."""
        draws = draws or Draws(self)
        fake = self._update("fake_score", self.fake_score_loss, k, draws)
        if self.freezes:
            self.fake_score.requires_grad_(False)
        generator = self._update("generator", self.generator_loss, k, draws)
        self.fake_score.requires_grad_(True)
        decay = ema_decay(
            self.config.training.batch_size, 1000 * self.config.training.ema_halflife_kimg
        )
        with torch.no_grad():
            pairs = [list(each.parameters()) for each in (self.average, self.generator)]
            if self.light:
                torch._foreach_lerp_(*pairs, 1 - decay)
            else:
                for kept, now in zip(*pairs, strict=True):
                    kept.copy_(now.detach().lerp(kept, decay))
        return fake, generator

    def _update(
        self,
        role: str,
        loss: Callable[[int, Conditioning, Draws, str], tuple[Tensor, float]],
        k: int,
        draws: Draws,
    ) -> float:
        """Gradients gathered over micro-batches, and a step."""
        optimizer, total = self.optimizers[role], torch.zeros((), device=self.device)
        optimizer.zero_grad(set_to_none=True)
        for share, cond in draws.batches(role):
            value, scale = loss(k, cond, draws, role)
            (scale * share * value).backward()
            total += share * value.detach()
        optimizer.step()
        return total.item()

    def rollout(self, k: int, cond: Conditioning, draws: Draws, role: str, graph: bool) -> Tensor:
        """x_g (B, ...) after k of the generator's steps; the last one may carry a graph."""
        x_g = torch.zeros((len(cond), *self.student.latent_shape), device=self.device)
        for step in range(k):
            t = torch.full((len(cond),), 1 - step / self.steps, device=self.device)
            x = (1 - _wide(t, x_g)) * x_g + _wide(t, x_g) * draws.normal(f"{role}/step{step}", x_g)
            with torch.set_grad_enabled(graph and step == k - 1):
                x_g = x - _wide(t, x) * self.velocity(self.generator, x, t, cond)
        return x_g

    def velocity(
        self, network: VelocityNetwork, x: Tensor, t: Tensor, cond: Conditioning, scale: float = 1.0
    ) -> Tensor:
        """(B, ...); with guidance conditional and unconditional in one batch of 2 B."""
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)
        if scale == 1.0:
            with mixed:
                return network(x, t, cond).float()
        assert self.uncond is not None
        empty = self.uncond.expand(len(x))
        if scale == 0.0:
            with mixed:
                return network(x, t, empty).float()
        both = Conditioning.cat([empty, cond])
        with mixed:
            v_uncond, v_cond = network(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), both).chunk(2)
        return v_uncond + scale * (v_cond - v_uncond)

    def diffused(self, x_g: Tensor, draws: Draws, role: str) -> tuple[Tensor, Tensor, Tensor]:
        """x_t and eps (B, ...), t (B,)."""
        t = self.density.sample_from(draws.uniform(f"{role}/t", len(x_g))).to(x_g)
        eps = draws.normal(f"{role}/eps", x_g)
        return (1 - _wide(t, x_g)) * x_g + _wide(t, x_g) * eps, eps, t

    def fake_score_loss(
        self, k: int, cond: Conditioning, draws: Draws, role: str
    ) -> tuple[Tensor, float]:
        with torch.no_grad():
            x_g = self.rollout(k, cond, draws, role, graph=False)
        x_t, eps, t = self.diffused(x_g, draws, role)
        scale = self.config.method.guidance.train_fake
        velocity = self.velocity(self.fake_score, x_t, t, cond, scale)
        return (velocity - (eps - x_g)).square().sum() / len(x_g), 1.0

    def generator_loss(
        self, k: int, cond: Conditioning, draws: Draws, role: str
    ) -> tuple[Tensor, float]:
        scales, method = self.config.method.guidance, self.config.method
        x_g = self.rollout(k, cond, draws, role, graph=True)
        x_t, _, t = self.diffused(x_g, draws, role)
        wide = _wide(t, x_g)
        fake = x_t - wide * self.velocity(self.fake_score, x_t, t, cond, scales.eval_fake)
        real = x_t - wide * self.velocity(self.teacher, x_t, t, cond, scales.eval_teacher)
        gap = real - fake
        value = ((1 - wide) * gap * ((real - x_g) - method.sid_alpha * gap)).sum() / len(x_g)
        return value, method.loss_scale

    def evaluations(self) -> tuple[int, int]:
        """Network evaluations so far, forward and backward."""
        networks = (self.teacher, self.generator, self.fake_score)
        return sum(n.evaluations for n in networks), sum(n.backward_evaluations for n in networks)


class Draws:
    """Random numbers and prompts of an iteration, from torch's global state."""

    def __init__(self, plan: OfficialPlan) -> None:
        self.plan = plan

    def batches(self, role: str) -> Iterator[tuple[float, Conditioning]]:
        """Share of the batch, and prompts, of each micro-batch."""
        training, prompts = self.plan.config.training, self.plan.student.prompts
        size = training.batch_size
        micro = training.micro_batch_size or size
        assert prompts is not None
        for start in range(0, size, micro):
            count = min(micro, size - start)
            cond = prompts.select(torch.randint(len(prompts), (count,)))
            yield count / size, cond.to(self.plan.device)

    def normal(self, stream: str, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform(self, stream: str, count: int) -> Tensor:
        return torch.rand(count, dtype=torch.float64, device=self.plan.device)


def _wide(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))


class Turns(NoiseSource):
    """k as it is set, whatever the seed."""

    k = 1

    def integer(self, stream: str, index: int, high: int) -> int:
        return self.k


class Ours:
    """The real trainer, fed the same k."""

    def __init__(self, student: Student, config: RunConfig, device: torch.device) -> None:
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
    plans = (ours(), official())
    held = plans[1].bytes_in_place
    peaks = tuple(held + peak_bytes(lambda m=m: two_steps(m), device) for m in (ours, official))
    steps = [1 + i % plans[1].steps for i in range(iterations)]
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
    images = iterations * plans[1].config.training.batch_size
    counts = [
        tuple((now - then) / images for now, then in zip(plan.evaluations(), was, strict=True))
        for plan, was in zip(plans, before, strict=True)
    ]
    return Row(name, seconds, peaks, (counts[0], counts[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", default="digits-sana", help="embedded, or of the hub catalog")
    parser.add_argument("--iterations", type=int, default=4, help="of a round")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
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
        config = with_overrides(base, list(settings))
        row = compare(
            name,
            lambda config=config: Ours(student, config, device),
            lambda config=config: OfficialPlan(
                student, config, device, not options.unfrozen, options.light
            ),
            device,
            options.iterations,
            options.pairs,
        )
        print(row.text(options.iterations * options.batch), flush=True)


if __name__ == "__main__":
    main()
