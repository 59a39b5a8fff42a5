"""Peak memory of an evaluation against the number of its samples, each in a process of its own.

    python benchmarks/evaluation_memory.py [--samples 512 4096] [--statistics]

Every process draws small images, sees 2048 features of each, and computes a Frechet distance and
its interval; its peak is what the operating system says (``ru_maxrss``). The reference comes with
the root of its covariance, as a stored one does. Features are those of a small network that takes
Inception's images; with ``--statistics`` they are random numbers, so that next to nothing but the
statistics is in memory. These take two more matrices of features x features once there are more
samples than features, and nothing from there on.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from workbench.evaluation import (
    Evaluator,
    FeatureCache,
    FeatureExtractors,
    FeatureStatistics,
    FrechetMetric,
    Sampler,
)
from workbench.evaluation.design import Design
from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.intervals import interval
from workbench.evaluation.networks import WeightFiles

BATCH = 250
DIMENSION = 2048


class RandomFeatures(FeatureExtractor):
    """Rows that depend on the first pixel of each image."""

    name, fingerprint, dimension = "random", "0", DIMENSION

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        random = np.random.default_rng(round(float(images[0, 0, 0, 0]) * 1e6))
        return torch.from_numpy(random.standard_normal((len(images), DIMENSION), np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--statistics", action="store_true", help="random features")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(*measured(options.samples[0], options.statistics))
        return
    peaks = []
    for samples in options.samples:
        peak, seconds, score, width = child(samples, options.statistics)
        peaks.append(peak)
        print(f"{samples:6d} samples  {peak:7.0f} MB  {seconds:6.1f} s  {score:.6f} +- {width:.6f}")
    print(f"peak of the last over the first: {peaks[-1] / peaks[0]:.3f}")


def child(samples: int, statistics: bool) -> list[float]:
    """MB, seconds, the distance and half of its interval, from a process of its own."""
    command = [sys.executable, __file__, "--child", "--samples", str(samples)]
    command += ["--statistics"] * statistics
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.split()]


def measured(samples: int, statistics: bool) -> tuple[float, float, float, float]:
    spread = np.linspace(0.5, 1.5, DIMENSION)
    root = np.diag(np.sqrt(spread))
    reference = FeatureStatistics(np.zeros(DIMENSION), np.diag(spread), 10**4, root)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        extractor = RandomFeatures() if statistics else small_network(Path(folder))
        metric = FrechetMetric(extractor, reference)
        evaluator = Evaluator((metric,), ("",) * samples, batch_size=BATCH)
        result = evaluator.sample_loop(FeatureCache(Path(folder), {})).run(
            Sampler(lambda prompts, start, count: draw(start, count), 1, 1.0)
        )
        score = evaluator.scores(result.table)["fid"]
        rows = result.table.rows(extractor.key, samples)
        ends = interval(metric, rows, score, Design(evaluator.prompts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return peak, time.perf_counter() - began, score, (ends.high - ends.low) / 2


def small_network(folder: Path) -> FeatureExtractor:
    """2048 features of 299 x 299 images."""
    from tests.small_inception import SmallInception

    torch.manual_seed(0)
    file = folder / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.script(SmallInception().eval()), str(file))
    files = WeightFiles(folder / "weights", {"inception": file})
    return FeatureExtractors(folder, files, torch.device("cpu")).find("inception")


def draw(start: int, count: int) -> Tensor:
    """Smooth pictures (count, 3, 32, 32); the first pixel of the first is start / 10^6."""
    small = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(start))
    pictures = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")
    pictures[0, 0, 0, 0] = start / 1e6
    return pictures


if __name__ == "__main__":
    main()
