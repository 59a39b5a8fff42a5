"""What a family's adapter adds to calling its bare transformer, as ratios within one run.

    python benchmarks/adapters.py

For one embedded teacher of each family: the transformer's own arguments are recorded from one call
through the adapter, then both are called in turn on the same batch, forward alone and forward with
backward. The ratio is the median over pairs, so that a busy moment spoils one pair and no more.
Also counted: calls of the transformer for one velocity, one everywhere. Weights are random.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from workbench.data.bundled import PROMPTS
from workbench.teachers.catalog import embedded_teachers
from workbench.teachers.families import FAMILIES
from workbench.training.parallel import choose_device

TEACHERS = ("digits-sana", "digits-sprint", "digits-sd3", "digits-flux")
BATCH = 128
PAIRS = 40


def median_ratio(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """Median of time(one) / time(other) over pairs, and the median of time(other) in ms."""
    ratios, alone = [], []
    for pair in range(PAIRS + 3):
        first, second = (one, other) if pair % 2 else (other, one)
        times = {}
        for work in (first, second):
            began = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[work] = time.perf_counter() - began
        if pair >= 3:  # the first ones warm up
            ratios.append(times[one] / times[other])
            alone.append(times[other])
    return sorted(ratios)[PAIRS // 2], 1e3 * sorted(alone)[PAIRS // 2]


def measure(name: str) -> None:
    from workbench.teachers.tiny import tiny_arguments, tiny_pipeline

    recipe, device = embedded_teachers()[name].recipe, choose_device()
    pipeline = tiny_pipeline(recipe, PROMPTS)
    family = FAMILIES[type(pipeline).__name__]
    arguments = family.call_arguments(pipeline, tiny_arguments(recipe))
    with torch.no_grad():
        prompts = family.encode(pipeline, PROMPTS, arguments)
    network = family.network(pipeline, arguments).to(device)
    x = torch.randn(BATCH, *family.latent_shape(pipeline, arguments), device=device)
    t = torch.rand(BATCH, device=device)
    cond = prompts.select(torch.arange(BATCH) % len(prompts)).to(device)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(module: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    hook = network.module.register_forward_pre_hook(record, with_kwargs=True)
    with torch.no_grad():
        network(x, t, cond)
    hook.remove()
    ((args, kwargs),) = calls

    def adapted() -> torch.Tensor:
        found: torch.Tensor = network(x, t, cond)
        return found

    def bare() -> torch.Tensor:
        found: torch.Tensor = network.module(*args, **kwargs)[0]
        return found

    with torch.no_grad():
        forward, ms = median_ratio(adapted, bare)
    both, ms_both = median_ratio(
        lambda: torch.autograd.backward(adapted().sum()),
        lambda: torch.autograd.backward(bare().sum()),
    )
    print(
        f"{name:14} {len(calls)} call   forward {ms:6.1f} ms x {forward:.3f}   "
        f"forward and backward {ms_both:6.1f} ms x {both:.3f}"
    )


def main() -> None:
    print(f"batch {BATCH}, {PAIRS} pairs: bare transformer, and the adapter's time over it")
    for name in TEACHERS:
        measure(name)


if __name__ == "__main__":
    main()
