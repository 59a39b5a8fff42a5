"""Our Frechet distance against clean-fid's, at equal value, in one run.

    python benchmarks/frechet.py [--samples 2000] [--dimension 2048] [--repeats 3]

Both start from feature rows of the samples and from a reference whose statistics are known (ours
also knows the root of the covariance, which is stored with a reference).
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from workbench.evaluation.frechet import CentredRows, FeatureStatistics, frechet_distance
from workbench.teachers._torchvision import prepare_torchvision

prepare_torchvision()
import cleanfid.fid  # noqa: E402  # needs torchvision


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    allow_old_sqrtm()
    samples = features(1, options.samples, options.dimension, shift=0.1)
    real = features(0, 3 * options.dimension, options.dimension)
    reference = FeatureStatistics.from_features(real)
    began = time.perf_counter()
    root = reference.factor
    seconds = time.perf_counter() - began
    print(f"root of the reference's covariance {root.shape}, once: {seconds:.2f} s")

    def ours() -> float:
        return frechet_distance(CentredRows(samples), reference)

    def theirs() -> float:
        mean, covariance = samples.mean(axis=0), np.cov(samples, rowvar=False)
        return float(
            cleanfid.fid.frechet_distance(mean, covariance, reference.mean, reference.covariance)
        )

    our_seconds, our_value = best(ours, options.repeats)
    their_seconds, their_value = best(theirs, options.repeats)
    print(f"ours       {our_seconds:8.3f} s   {our_value:.9f}")
    print(f"clean-fid  {their_seconds:8.3f} s   {their_value:.9f}")
    print(
        f"{options.samples} x {options.dimension}: {their_seconds / our_seconds:.1f} times faster, "
        f"relative difference {abs(our_value / their_value - 1):.1e}"
    )


def features(seed: int, count: int, dimension: int, shift: float = 0.0) -> NDArray[np.float32]:
    """Correlated rows with a decaying spectrum, as a network's features have."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(np.random.default_rng(7).normal(size=(dimension, dimension)))
    spectrum = 1.0 / np.sqrt(1.0 + np.arange(dimension))
    rows = (random.normal(size=(count, dimension)) * spectrum) @ basis.T + shift
    return np.asarray(rows, np.float32)


def best(function: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The fastest of some calls, in seconds, and the value."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        value = function()
        seconds.append(time.perf_counter() - began)
    return min(seconds), value


def allow_old_sqrtm() -> None:
    """clean-fid passes sqrtm an argument that newer SciPy does not take."""
    stock = scipy.linalg.sqrtm

    @functools.wraps(stock)
    def sqrtm(matrix: NDArray[np.float64], disp: bool = True) -> object:
        root = stock(matrix)
        return root if disp else (root, np.nan)

    cleanfid.fid.linalg.sqrtm = sqrtm


if __name__ == "__main__":
    main()
