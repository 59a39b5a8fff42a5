"""Which prompt each generated sample gets: a fresh random order every pass, addressed by sample."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning


class PromptRows(Protocol):
    """Encoded prompts, in memory (``Conditioning``) or on disk (``StoredPrompts``)."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor, /) -> Conditioning:
        """Rows by an int64 index (any order, repeats allowed)."""
        ...


class PromptStream:
    """Endless shuffled passes over encoded prompts; the data position is the sample index."""

    def __init__(self, encoded: PromptRows, noise: NoiseSource) -> None:
        self.encoded = encoded
        self._order = lru_cache(maxsize=2)(
            lambda epoch: noise.permutation(f"prompts/{epoch}", len(encoded))
        )

    def rows(self, start: int, count: int) -> Tensor:
        """Row indices of samples ``start .. start + count``, int64 (count,)."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, len(self.encoded))
            parts.append(self._order(epoch)[place : place + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)

    def take(self, start: int, count: int) -> Conditioning:
        return self.encoded.select(self.rows(start, count))
