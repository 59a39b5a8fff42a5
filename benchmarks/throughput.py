"""Distillation throughput on the embedded teacher's architecture, as a ratio within one run.

    python benchmarks/throughput.py

An iteration's time is compared with the time of its network evaluations alone (the same numbers of
forward and backward passes of the bare transformer at the same batch), so the ratio is what the
trainer, the losses, the optimizers and the noise add. Weights are random: only time is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from workbench.data.bundled import PROMPTS
from workbench.flow import NoiseSource
from workbench.teachers.recipe import SanaRecipe
from workbench.teachers.sana import SanaFamily
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks, choose_device
from workbench.training.recipes import run_config
from workbench.training.trainer import Trainer

ITERATIONS = 24


def seconds(work: Callable[[], object]) -> float:
    """The median of the work's times, in seconds."""
    work()
    times = []
    for _ in range(ITERATIONS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def main() -> None:
    from workbench.teachers.tiny import tiny_arguments, tiny_pipeline

    recipe, family, device = SanaRecipe(), SanaFamily(), choose_device()
    pipeline = tiny_pipeline(recipe, PROMPTS)
    arguments = family.call_arguments(pipeline, tiny_arguments(recipe))
    with torch.no_grad():
        prompts = family.encode(pipeline, PROMPTS, arguments)
    network = family.network(pipeline, arguments)
    shape = family.latent_shape(pipeline, arguments)
    # k = 2 in every iteration: 2 k + 3 = 7 evaluations, 4 of them with a backward pass.
    settings = ["generator.steps=2", "generator.noise=fresh"]
    config = run_config(*settings)
    trainer = Trainer(config, DistillationInputs(network, shape, prompts), Ranks(0, 1, device))
    object.__setattr__(trainer, "noise", _AlwaysTwo(config.seed))
    iteration = seconds(trainer.train_step)

    batch = config.training.batch_size
    bare = trainer.networks.generator
    x = torch.randn(batch, *shape, device=device)
    t = torch.rand(batch, device=device)
    cond = prompts.select(torch.arange(batch) % len(prompts)).to(device)

    def forward() -> None:
        with torch.no_grad():
            bare(x, t, cond)

    def to_weights() -> None:
        bare(x, t, cond).sum().backward()

    frozen = trainer.networks.teacher
    source = x.clone().requires_grad_(True)

    def to_input() -> None:
        frozen(source, t, cond).sum().backward()

    # Fake score: 2 forward, 1 to its weights. Generator: 1 forward, 1 to its weights, 2 to inputs.
    alone = 3 * seconds(forward) + 2 * seconds(to_weights) + 2 * seconds(to_input)
    print(f"iteration {1e3 * iteration:.0f} ms, {batch / iteration:.0f} images/s at k = 2")
    print(f"its network evaluations alone {1e3 * alone:.0f} ms")
    print(f"ratio {iteration / alone:.2f}")


class _AlwaysTwo(NoiseSource):
    def integer(self, stream: str, index: int, high: int) -> int:
        return 2


if __name__ == "__main__":
    main()
