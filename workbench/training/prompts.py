"""Which prompt each generated sample gets: a fresh random order every pass, addressed by sample."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning


class PromptStream:
    """Endless shuffled passes over encoded prompts; the data position is the sample index."""

    def __init__(self, encoded: Conditioning, noise: NoiseSource) -> None:
        self.encoded = encoded
        self._order = lru_cache(maxsize=2)(
            lambda epoch: noise.permutation(f"prompts/{epoch}", len(encoded))
        )

    def rows(self, start: int, count: int) -> Tensor:
        """Row indices of samples ``start .. start + count``, int64 (count,)."""
        index = torch.arange(start, start + count)
        epochs = index // len(self.encoded)
        orders = {int(epoch): self._order(int(epoch)) for epoch in epochs.unique()}
        places = index % len(self.encoded)
        return torch.stack([orders[int(e)][p] for e, p in zip(epochs, places, strict=True)])

    def take(self, start: int, count: int) -> Conditioning:
        return self.encoded.select(self.rows(start, count))
