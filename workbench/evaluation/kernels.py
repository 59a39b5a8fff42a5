"""Maximum mean discrepancies: KID (Binkowski et al. 2018) and CMMD (Jayasumana et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation.feature_table import blocks

Array = NDArray[np.float64]
Kernel = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Rows (N, D), (M, D) -> values (N, M)."""

SUBSETS = 100
SUBSET_SIZE = 1000
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0
_BLOCK = 1024  # rows and columns of a kernel matrix that are in memory at once


def cubic(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """(x . y / D + 1)^3, KID's kernel."""
    base = x @ y.T / x.shape[1] + 1.0
    value: NDArray[Any] = base * base * base  # numpy's power takes ten times as long
    return value


def gaussian(x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    """exp(-|x - y|^2 / (2 sigma^2)) with sigma = 10, CMMD's kernel."""
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)[None] - 2.0 * (x @ y.T)
    value: NDArray[Any] = np.exp(-squares / (2.0 * CMMD_SIGMA**2))
    return value


def subset_places(
    samples: int, reference: int, seed: int, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Places in the samples and in the reference of each of KID's random subsets.

    Each takes min(N, M, ``subset_size``) without replacement, first of the samples, then of the
    reference, as clean-fid does.
    """
    random = np.random.RandomState(seed)
    size = min(samples, reference, subset_size)
    for _ in range(subsets):
        ours = random.choice(samples, size, replace=False)
        yield ours, random.choice(reference, size, replace=False)


def kernel_distance(
    samples: NDArray[Any],
    reference: NDArray[Any],
    places: Iterable[tuple[NDArray[Any], NDArray[Any]]],
) -> float:
    """KID as clean-fid computes it: the unbiased squared MMD, averaged over subsets.

    Sums are float64 whatever the rows are.

    Args:
        samples, reference: rows (N, D), (M, D); at least 2 each.
        places: of each subset, all equally large (:func:`subset_places`).
    """
    total, subsets, size = 0.0, 0, 0
    for ours, theirs in places:
        x, y = samples[ours].astype(np.float64), reference[theirs].astype(np.float64)
        subsets, size = subsets + 1, len(x)
        within = cubic(x, x).sum() - cubic_diagonal(x).sum()
        within += cubic(y, y).sum() - cubic_diagonal(y).sum()
        total += within / (size - 1) - 2.0 * cubic(x, y).sum() / size
    return float(total / subsets / size)


def cubic_diagonal(x: Array) -> Array:
    """k(x_i, x_i) of :func:`cubic`, (N,)."""
    values: Array = ((x**2).sum(axis=1) / x.shape[1] + 1.0) ** 3
    return values


def squared_mmd(samples: NDArray[Any], reference: NDArray[Any], kernel: Kernel) -> float:
    """The biased (V-statistic) squared MMD of rows (N, D) and (M, D), as CMMD uses it."""
    return float(
        kernel_means(samples, samples, kernel).mean()
        + kernel_means(reference, reference, kernel).mean()
        - 2.0 * kernel_means(samples, reference, kernel).mean()
    )


def kernel_means(x: NDArray[Any], y: NDArray[Any], kernel: Kernel) -> Array:
    """mean_j k(x_i, y_j), float64 (N,), in blocks of rows on both sides."""
    sums = np.zeros(len(x))
    for start, block in blocks(x, _BLOCK):
        for _, other in blocks(y, _BLOCK):
            sums[start : start + len(block)] += kernel(block, other).sum(axis=1)
    return sums / len(y)


def mmd_influence(samples: NDArray[Any], reference: NDArray[Any], kernel: Kernel) -> Array:
    """How much each row moves the squared MMD, (N,), to first order in weights on the rows.

    2 (mean_j k(x_i, x_j) - mean_j k(x_i, y_j)), centred: the U-statistic's projection.
    """
    inner = kernel_means(samples, samples, kernel) - kernel_means(samples, reference, kernel)
    influence: Array = 2.0 * (inner - inner.mean())
    return influence
