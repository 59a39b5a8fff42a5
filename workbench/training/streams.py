"""Which prompt and image-text pair each sample gets: shuffled epochs, addressed by sample."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from workbench.flow.noise import NoiseSource
from workbench.methods import Pairs
from workbench.teachers.base import Conditioning


class PromptDataset(Protocol):
    """Encoded prompts, in memory (``Conditioning``) or on disk (``StoredPrompts``)."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor, /) -> Conditioning:
        """Rows by an int64 index (any order, repeats allowed)."""
        ...


class PairDataset(Protocol):
    """Image-text pairs whose latents and prompts are encoded, in memory or on disk."""

    def __len__(self) -> int: ...

    def select(self, index: Tensor, /) -> Pairs:
        """Rows by an int64 index (any order, repeats allowed)."""
        ...


class EpochShuffle:
    """Endless epochs over ``length`` rows, each in a new random order.

    The position is the sample's index, so that a resume continues where the run stopped.
    """

    def __init__(self, length: int, noise: NoiseSource) -> None:
        self.length, self.noise = length, noise
        self._orders: dict[str, dict[int, Tensor]] = {}

    def _order(self, stream: str, epoch: int) -> Tensor:
        """An epoch's order; neighboring ones stay cached, as batches cross their boundary."""
        kept = self._orders.get(stream, {})
        if epoch not in kept:
            near = {each: order for each, order in kept.items() if abs(each - epoch) == 1}
            order = self.noise.permutation(f"{stream}/{epoch}", self.length)
            kept = self._orders[stream] = {**near, epoch: order}
        return kept[epoch]

    def rows(self, stream: str, start: int, count: int) -> Tensor:
        """Row indices of samples ``start .. start + count``, int64 (count,)."""
        parts = []
        while count > 0:
            epoch, place = divmod(start, self.length)
            parts.append(self._order(stream, epoch)[place : place + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return torch.cat(parts)


class PromptStream:
    """Prompts for generated samples; each draw has its own order."""

    def __init__(self, encoded: PromptDataset, noise: NoiseSource) -> None:
        self.encoded = encoded
        self._passes = EpochShuffle(len(encoded), noise)

    def rows(self, start: int, count: int, draw: int = 0) -> Tensor:
        """Row indices of samples ``start .. start + count``, int64 (count,)."""
        return self._passes.rows(f"prompts{draw}" if draw else "prompts", start, count)

    def take(self, start: int, count: int, draw: int = 0) -> Conditioning:
        return self.encoded.select(self.rows(start, count, draw))


class PairStream:
    """Image-text pairs for losses that use data; each stream has its own order."""

    def __init__(self, pairs: PairDataset, noise: NoiseSource) -> None:
        self.pairs = pairs
        self._passes = EpochShuffle(len(pairs), noise)

    def take(self, stream: str, start: int, count: int) -> Pairs:
        return self.pairs.select(self._passes.rows(f"pairs/{stream}", start, count))
