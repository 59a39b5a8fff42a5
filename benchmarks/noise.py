"""Nanoseconds a normal number: the first algorithm, today's on the CPU, and the device's own.

    python benchmarks/noise.py [--pairs 15]

One sample and 32, of three latent shapes. Each is drawn by the first algorithm (whole arrays at
once in float64, then moved to the device) and in turn by today's; ratios are medians over pairs,
so that a busy moment spoils one pair and no more. The CPU's numbers are the same bits, which is
checked. Where there is no GPU the device's operations are run by the CPU, which shows no more than
that they work.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor

from workbench.flow import NoiseSource
from workbench.training.parallel import choose_device

SHAPES = ((4, 8, 8), (32, 16, 16), (16, 128, 128))
COUNTS = (1, 32)
STREAM = "generator/z"


def first_algorithm(source: NoiseSource, start: int, count: int, shape: Sequence[int]) -> Tensor:
    """NoiseSource.normal as it was first written; float32 CPU tensor (count, *shape)."""
    size = math.prod(shape)
    words = -(-size // 2)
    counters = -(-words // 4)
    digest = hashlib.blake2b(STREAM.encode(), digest_size=8).digest()
    key = np.array([source.seed, int.from_bytes(digest, "little")], dtype=np.uint64)
    raw = np.random.Philox(key=key, counter=start * counters).random_raw(count * counters * 4)
    used = np.ascontiguousarray(raw.reshape(count, -1)[:, :words])
    uniform = (torch.from_numpy(used.view(np.uint32).astype(np.float64)) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2]))
    angle = (2.0 * math.pi) * uniform[:, 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pairs.reshape(count, -1)[:, :size].reshape(count, *shape).float()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(
    first: Callable[[], object], today: Callable[[], object], pairs: int
) -> tuple[float, float, float]:
    """Median seconds of both, and the median over pairs of how many times faster today's is."""
    times = []
    for pair in range(pairs + 3):
        if pair % 2:
            times.append((seconds(first), seconds(today)))
        else:
            times.append((seconds(today), seconds(first))[::-1])
    times = times[3:]  # the first ones warm up
    return (
        median(one for one, _ in times),
        median(other for _, other in times),
        median(one / other for one, other in times),
    )


def measure(shape: tuple[int, ...], count: int, device: torch.device, pairs: int) -> str:
    source, numbers = NoiseSource(1), count * math.prod(shape)
    here = source.normal(STREAM, 5, count, shape)
    if not torch.equal(here, first_algorithm(source, 5, count, shape)):
        raise SystemExit(f"{shape}: the CPU's numbers are not those of the first algorithm")

    def on_device() -> Tensor:
        return source._device_normal(STREAM, 5, count, math.prod(shape), device)

    old, cpu, faster = compare(
        lambda: first_algorithm(source, 5, count, shape),
        lambda: source.normal(STREAM, 5, count, shape),
        pairs,
    )
    _, there, faster_there = compare(
        lambda: first_algorithm(source, 5, count, shape).to(device), on_device, pairs
    )
    name = f"{count} x {'x'.join(map(str, shape))}"
    return (
        f"{name:16} first {1e9 * old / numbers:6.1f} ns   "
        f"cpu {1e9 * cpu / numbers:6.1f} ns ({faster:5.2f} times faster)   "
        f"{device.type}'s own {1e9 * there / numbers:8.2f} ns, {1e3 * there:7.3f} ms a draw "
        f"({faster_there:6.2f} times faster)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args()
    device = choose_device()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {device}")
    for shape in SHAPES:
        for count in COUNTS:
            print(measure(shape, count, device, options.pairs), flush=True)


if __name__ == "__main__":
    main()
