"""How samples were drawn, as far as that decides how sure their scores are.

Where prompts repeat, fresh samples would have the same prompts as often again: what differs between
prompts is no chance, and a score spreads only as far as samples of one prompt do. Prompts that
occur once stand for all prompts that there might have been: fresh samples would have others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from workbench.evaluation.feature_table import Rows, chosen

Array = NDArray[np.float64]
Picks = NDArray[np.bool_]
Places = NDArray[np.int64]

_HALVED = 4
"""Samples of every stratum that are enough to halve them and still see their spread."""


class Design:
    """Strata, one for each prompt that repeats and one for all others; and resamples of them.

    Args:
        prompts: of the samples in their order, at least two; or any labels that say as much.
        resamples: random halves for a score that no formula tells the spread of.
        seed: equal seed, equal halves and parts.
    """

    def __init__(
        self, prompts: Sequence[str] | Places, resamples: int = 200, seed: int = 0
    ) -> None:
        _, strata, counts = np.unique(prompts, return_inverse=True, return_counts=True)
        alone = counts[strata] == 1
        if alone.sum() == 1:  # a stratum of one has no spread: it joins the largest other
            alone |= strata == counts.argmax()
        strata[alone] = len(counts)
        _, self.strata, self.counts = np.unique(strata, return_inverse=True, return_counts=True)
        self.resamples, self.seed = resamples, seed

    def __len__(self) -> int:
        return len(self.strata)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of a spread within strata, at least 1."""
        return len(self) - len(self.counts)

    def within(self, values: Array) -> Array:
        """Values (N,) minus the mean of their strata."""
        means = np.bincount(self.strata, values) / self.counts
        deviations: Array = values - means[self.strata]
        return deviations

    def error_of_mean(self, values: Array) -> float:
        """Standard error of the mean of independent values (N,)."""
        return float(np.sqrt(self._variance(self.within(values))))

    def error(self, rows: Rows, influence: Callable[[Rows, Design], Array]) -> float:
        """Standard error of a smooth score of rows.

        A score is its expectation, plus the mean influence of its rows, plus a sum over pairs of
        rows, whose part of the variance falls by 1/N^2. Influences that are taken on the same rows
        count that part twice; on halves of the rows it is four times as large, and the variance of
        the mean only twice, which tells them apart. Where strata are too small to be halved, the
        error is too large rather than too small, by at most a factor of 1.4.

        Args:
            influence: of each row on the score of all, within strata, (N,).
        """
        whole = self._variance(influence(rows, self))
        if self.counts.min() < _HALVED:
            return float(np.sqrt(whole))
        halves = []
        for places in self.parts(2):
            part = Design(self.strata[places])
            halves.append(part._variance(influence(chosen(rows, places), part)))
        return float(np.sqrt(np.clip(1.5 * whole - np.mean(halves) / 4.0, whole / 2.0, whole)))

    def error_by_halves(self, scores: Callable[[Picks], Array]) -> float:
        """Standard error as the spread over random halves (the delete-half jackknife).

        Shao & Wu 1989. Halves do not repeat samples, as the bootstrap does: repeated ones are their
        own nearest neighbors.

        Args:
            scores: of each subset of the samples: (B, N) -> (B,).
        """
        return float(np.std(scores(self.halves()), ddof=1))

    def halves(self) -> Picks:
        """Random halves of every stratum, (resamples, N): one of each of N // 2 random pairs.

        What is left of a stratum of odd size is paired with what is left of the next.
        """
        random = np.random.default_rng(self.seed)
        picks = np.zeros((self.resamples, len(self)), dtype=np.bool_)
        for pick in picks:
            pairs = self._alike(2, random)
            pick[pairs[np.arange(len(pairs)), random.integers(0, 2, len(pairs))]] = True
        return picks

    def parts(self, count: int) -> list[Places]:
        """Random parts of N // count samples, disjoint, each with its share of every stratum."""
        return list(self._alike(count, np.random.default_rng(self.seed)).T)

    def _alike(self, count: int, random: np.random.Generator) -> Places:
        """Random groups of ``count`` samples (N // count, count), of one stratum where they can."""
        order = np.lexsort((random.random(len(self)), self.strata))
        kept = np.sort(random.permutation(len(self))[: len(self) // count * count])
        groups: Places = order[kept].reshape(-1, count)
        return groups

    def _variance(self, deviations: Array) -> float:
        """Of the mean, from deviations (N,) within strata."""
        squares = np.bincount(self.strata, deviations**2)
        return float((squares * self.counts / (self.counts - 1)).sum()) / len(self) ** 2
