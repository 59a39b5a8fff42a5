"""Improved precision and recall (Kynkaanniemi et al. 2019) in feature space.

A set's manifold is the union of balls around its rows, each reaching to the row's k-th nearest
neighbour in the set. Precision is the share of samples inside the reference's manifold; recall the
share of the reference inside the samples'.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation.feature_table import blocks

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

NEIGHBOURS = 3
_BLOCK = 512  # rows of a distance matrix that are in memory at once
_CANDIDATES = 48  # nearest neighbours from which a half-sample still finds its own k-th


def radii(rows: NDArray[Any], neighbours: int = NEIGHBOURS) -> Array:
    """Squared distance of every row (N, D) to its k-th nearest other row, (N,)."""
    reach = np.empty(len(rows))
    for start, distances in _blocks(rows, rows):
        _exclude_self(distances, start)
        reach[start : start + len(distances)] = np.partition(distances, neighbours - 1, axis=1)[
            :, neighbours - 1
        ]
    return reach


def inside(rows: NDArray[Any], manifold: NDArray[Any], reach: Array) -> Flags:
    """Which of rows (N, D) lie in a ball of ``reach`` (squared, (M,)) around a row of (M, D)."""
    flags = np.empty(len(rows), dtype=np.bool_)
    for start, distances in _blocks(rows, manifold):
        flags[start : start + len(distances)] = (distances <= reach[None]).any(axis=1)
    return flags


def covered_shares(
    rows: NDArray[Any], manifold: NDArray[Any], picks: Flags, neighbours: int = NEIGHBOURS
) -> Array:
    """Share of rows (N, D) inside the manifold of each subset of (M, D); picks (B, M) -> (B,).

    Every distance is computed once: a subset's ball around a row ends within the row's nearest
    ``_CANDIDATES`` neighbours unless fewer than k of those are in the subset, which for halves has
    a probability of 1e-11 a row; such a ball then ends at the last of them.
    """
    candidates = min(_CANDIDATES, len(manifold) - 1)
    near, far = _nearest(manifold, candidates)
    held, by, gaps = [], [], []
    for start, distances in _blocks(rows, manifold):
        row, ball = np.nonzero(distances <= far[None, :, -1])
        held.append(row + start)
        by.append(ball)
        gaps.append(distances[row, ball])
    row, ball, gap = np.concatenate(held), np.concatenate(by), np.concatenate(gaps)
    shares = np.empty(len(picks))
    for number, pick in enumerate(picks):
        ranks = np.cumsum(pick[near], axis=1)
        place = np.where(ranks[:, -1] >= neighbours, (ranks < neighbours).sum(axis=1), -1)
        reach = np.take_along_axis(far, place[:, None] % candidates, axis=1)[:, 0]
        covered = pick[ball] & (gap <= reach[ball])
        shares[number] = len(np.unique(row[covered])) / len(rows)
    return shares


def _nearest(rows: NDArray[Any], count: int) -> tuple[NDArray[np.int64], Array]:
    """Indices and squared distances (N, count) of each row's nearest others, nearest first."""
    places = np.empty((len(rows), count), dtype=np.int64)
    gaps = np.empty((len(rows), count))
    for start, distances in _blocks(rows, rows):
        _exclude_self(distances, start)
        some = np.argpartition(distances, count - 1, axis=1)[:, :count]
        gap = np.take_along_axis(distances, some, axis=1)
        order = np.argsort(gap, axis=1, kind="stable")
        places[start : start + len(distances)] = np.take_along_axis(some, order, axis=1)
        gaps[start : start + len(distances)] = np.take_along_axis(gap, order, axis=1)
    return places, gaps


def _blocks(rows: NDArray[Any], others: NDArray[Any]) -> Iterator[tuple[int, Array]]:
    """(first row, squared distances (block, M)) for blocks of rows; float64."""
    squares = np.concatenate([(other**2).sum(axis=1) for _, other in blocks(others, _BLOCK)])
    for start, block in blocks(rows, _BLOCK):
        distances = np.empty((len(block), len(others)))
        for place, other in blocks(others, _BLOCK):
            np.matmul(block, other.T, out=distances[:, place : place + len(other)])
        distances *= -2.0
        distances += (block**2).sum(axis=1)[:, None] + squares[None]
        yield start, np.maximum(distances, 0.0, out=distances)


def _exclude_self(distances: Array, start: int) -> None:
    own = np.arange(len(distances))
    distances[own, start + own] = np.inf
