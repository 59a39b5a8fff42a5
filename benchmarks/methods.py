"""Time of one iteration of every method, as a ratio to data-free SiD's, within one run.

    python benchmarks/methods.py

Iterations of all methods take turns on the embedded teacher's architecture (random weights), each
with k = 1, 2, 3, 4 generator steps equally often, warm-ups over; CPU time where there is no GPU, so
that other programs on the machine do not count. The target is 1.35 for adversarial SiD.
"""

from __future__ import annotations

import time
from statistics import median

import torch

from workbench.data.bundled import PROMPTS
from workbench.flow import NoiseSource
from workbench.methods import METHODS, Pairs, method_type
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.recipe import SanaRecipe
from workbench.teachers.sana import SanaFamily
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks, choose_device
from workbench.training.recipes import run_config
from workbench.training.trainer import Trainer

ROUNDS = 3
STEPS = 4
LATE = 10**9
"""Images after which every warm-up is over."""


class _Turns(NoiseSource):
    """k = 1, 2, 3, 4 in turn, whatever the seed."""

    k = 1

    def integer(self, stream: str, index: int, high: int) -> int:
        return self.k


class _Rows:
    """Latents of noise with prompts: only their number matters here."""

    def __init__(self, latents: torch.Tensor, cond: Conditioning) -> None:
        self.pairs = Pairs(latents, cond)

    def __len__(self) -> int:
        return len(self.pairs.latents)

    def select(self, index: torch.Tensor) -> Pairs:
        cond = self.pairs.cond
        return Pairs(self.pairs.latents[index], cond.select(index) if cond else None)


def trainer_of(
    name: str, student: DistillationInputs, device: torch.device
) -> tuple[Trainer, _Turns]:
    """An trainer behind its warm-ups, and the source of its k."""
    data = ["data.source=digits"] if method_type(METHODS[name]()).needs_pairs else []
    config = run_config(f"method.name={name}", "training.kimg=1e6", *data)
    trainer = Trainer(config, student, Ranks(0, 1, device))
    turns = _Turns(config.seed)
    trainer.noise = turns
    trainer.state.nimg = LATE - LATE % config.training.batch_size
    return trainer, turns


def student() -> DistillationInputs:
    from workbench.teachers.tiny import tiny_arguments, tiny_pipeline

    recipe, family = SanaRecipe(), SanaFamily()
    pipeline = tiny_pipeline(recipe, PROMPTS)
    arguments = family.call_arguments(pipeline, tiny_arguments(recipe))
    with torch.no_grad():
        prompts = family.encode(pipeline, PROMPTS, arguments)
    network: VelocityNetwork = family.network(pipeline, arguments)
    shape = family.latent_shape(pipeline, arguments)
    many = prompts.select(torch.arange(512) % len(prompts))
    return DistillationInputs(network, shape, prompts, pairs=_Rows(torch.randn(512, *shape), many))


def main() -> None:
    device = choose_device()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    taught = student()
    trainers = {name: trainer_of(name, taught, device) for name in METHODS}
    times: dict[str, list[float]] = {name: [] for name in METHODS}
    for turn in range(1 + ROUNDS):
        for name, (trainer, turns) in trainers.items():
            began = clock()
            for turns.k in range(1, STEPS + 1):
                trainer.train_step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append((clock() - began) / STEPS)
    batch, sid = run_config().training.batch_size, times["sid"]
    print(f"{'method':<10} {'ms/image':>9} {'of sid':>7} {'lowest':>7} {'highest':>7}")
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, sid, strict=True)]
        print(
            f"{name:<10} {1e3 * median(seconds) / batch:>9.3f} {median(ratios):>7.2f} "
            f"{min(ratios):>7.2f} {max(ratios):>7.2f}"
        )


if __name__ == "__main__":
    main()
