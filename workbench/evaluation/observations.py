"""Rows of observations in sample order: what batches and ranks saw, put back together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.evaluation.grids import NotFiniteError

Rows = NDArray[np.float32]


class Observations:
    """Rows by observer and sample index.

    Nothing is summed on the way, so neither batches nor ranks can change a bit of a score.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, dict[int, Rows]] = {}

    def update(self, start: int, rows: Mapping[str, Tensor | NDArray[Any]]) -> None:
        """Add the rows (B, D) of samples ``start .. start + B``, by observer.

        Raises:
            ValueError: not rows.
            NotFiniteError: a row is not finite.
        """
        for observer, given in rows.items():
            values = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
            block: Rows = np.ascontiguousarray(values, dtype=np.float32)
            if block.ndim != 2:
                raise ValueError(f"{observer} must give rows (B, D), not of shape {block.shape}")
            if not np.isfinite(block).all():
                first = start + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise NotFiniteError(
                    f"What {observer.partition('/')[0]} sees in sample {first} is not finite: "
                    "no score."
                )
            self._blocks.setdefault(observer, {})[start] = block

    def merge(self, other: Observations) -> None:
        """Add what another rank has seen."""
        for observer, blocks in other._blocks.items():
            self._blocks.setdefault(observer, {}).update(blocks)

    def covers(self, observer: str, start: int, count: int) -> bool:
        """Whether every sample of ``start .. start + count`` has its row."""
        reached = start
        for first, block in sorted(self._blocks.get(observer, {}).items()):
            if first > reached:
                break
            reached = max(reached, first + len(block))
        return reached >= start + count

    def rows(self, observer: str, samples: int) -> Rows:
        """The rows (samples, D) in sample order.

        Raises:
            WorkbenchError: a sample is missing: part of the samples give no score.
        """
        blocks = sorted(self._blocks.get(observer, {}).items())
        if not self.covers(observer, 0, samples):
            seen = sum(len(block) for _, block in blocks)
            raise WorkbenchError(
                f"Only {seen} of {samples} samples were seen by {observer.partition('/')[0]}: "
                "no score."
            )
        whole = np.empty((samples, blocks[0][1].shape[1]), np.float32)
        for first, block in blocks:
            whole[first : first + len(block)] = block[: max(0, samples - first)]
        return whole
