"""Random numbers addressed by (seed, stream, sample index) instead of drawn from a moving state.

A sample's noise is a function of its address. It is therefore the same at every batch size, on
every rank, on every device and after every resume, and a checkpoint needs no generator state.

The generator is Philox-4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3");
normals come from the Box-Muller transform, whose fixed consumption makes every sample's block
of counters addressable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WORDS_PER_COUNTER = 4  # one Philox-4x64 counter yields four 64-bit words


@dataclass(frozen=True)
class NoiseSource:
    """Addressable random numbers for one seed.

    A stream is a short name ("generator/z", "fake_score/t"); distinct streams are independent.
    """

    seed: int

    def normal(self, stream: str, start: int, count: int, shape: Sequence[int]) -> Tensor:
        """Standard normal noise of samples ``start .. start + count``.

        Returns:
            float32 CPU tensor (count, *shape).
        """
        size = math.prod(shape)
        words = self._words(stream, start, count, -(-size // 2))
        halves = torch.from_numpy(words.view(np.uint32).astype(np.float64))
        uniform = (halves + 0.5) * 2.0**-32  # strictly inside (0, 1): log stays finite
        radius = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2]))
        angle = (2.0 * math.pi) * uniform[:, 1::2]
        pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
        return pairs.reshape(count, -1)[:, :size].reshape(count, *shape).float()

    def uniform(self, stream: str, start: int, count: int) -> Tensor:
        """Uniform numbers strictly inside (0, 1), float64 CPU tensor (count,)."""
        words = self._words(stream, start, count, 1)[:, 0]
        return torch.from_numpy(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)

    def integer(self, stream: str, index: int, high: int) -> int:
        """One integer uniform on 1..high for the given index."""
        return 1 + int(self.uniform(stream, index, 1).item() * high)

    def permutation(self, stream: str, length: int) -> Tensor:
        """A random order of 0..length-1, int64 (length,)."""
        return torch.argsort(self.uniform(stream, 0, length), stable=True)

    def _words(self, stream: str, start: int, count: int, words_per_sample: int) -> np.ndarray:
        counters = -(-words_per_sample // _WORDS_PER_COUNTER)
        digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
        key = np.array([self.seed, int.from_bytes(digest, "little")], dtype=np.uint64)
        # numpy advances the counter before its first block, so start - 1 + 1 == start blocks in.
        bits = np.random.Philox(key=key, counter=start * counters)
        raw = bits.random_raw(count * counters * _WORDS_PER_COUNTER)
        return np.ascontiguousarray(raw.reshape(count, -1)[:, :words_per_sample])
