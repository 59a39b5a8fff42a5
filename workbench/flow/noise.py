"""Random numbers addressed by (seed, stream, sample index) instead of drawn from a moving state.

A sample's noise is a function of its address. It is therefore the same at every batch size, on
every rank and after every resume, and a checkpoint needs no generator state.

The generators are counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3"): Philox-4x64 of numpy on the CPU, and on other devices, where a copy from the CPU would stall
the training step, Philox-4x32 in tensor operations. Normals come from the Box-Muller transform,
whose fixed consumption makes every sample's block of counters addressable.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_WORDS_PER_COUNTER = 4
"""A counter's words: of 64 bits in numpy, of 32 in :func:`philox`."""
_CHUNK = 65536
"""Words transformed at once on the CPU. With their temporaries 2.6 MiB: in cache, and memory that
the allocator keeps; fewer would cost more in calls and, between several threads, in waiting."""
_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]
"""Four words of 32 bits each, in int64."""


@dataclass(frozen=True)
class NoiseSource:
    """Addressable random numbers for one seed.

    A stream is a short name ("generator/z", "fake_score/t"); distinct streams are independent.
    """

    seed: int

    def normal(
        self,
        stream: str,
        start: int,
        count: int,
        shape: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standard normal noise of samples ``start .. start + count``, made on the device.

        The CPU and other devices have different numbers at one address. What must not depend on
        the device (evaluation, initial weights, data sets) asks for the CPU's, which is the
        default; training noise only has to be the same after a resume, and at every batch size and
        number of ranks, on devices of one type.

        Returns:
            float32 tensor (count, *shape) on the device.
        """
        size = math.prod(shape)
        if torch.device(device).type == "cpu":
            rows = self._cpu_normal(stream, start, count, size)
        else:
            rows = self._device_normal(stream, start, count, size, device)
        return rows.reshape(count, *shape)

    def uniform(self, stream: str, start: int, count: int) -> Tensor:
        """Uniform numbers strictly inside (0, 1), float64 CPU tensor (count,)."""
        return torch.from_numpy(self._uniform(stream, start, count))

    def integer(self, stream: str, index: int, high: int) -> int:
        """One integer uniform on 1..high for the given index."""
        return 1 + int(self._uniform(stream, index, 1)[0] * high)

    def permutation(self, stream: str, length: int) -> Tensor:
        """A random order of 0..length-1, int64 (length,)."""
        return torch.argsort(self.uniform(stream, 0, length), stable=True)

    def _uniform(self, stream: str, start: int, count: int) -> NDArray[np.float64]:
        raw = self._bits(stream, start).random_raw(count * _WORDS_PER_COUNTER)
        words = raw[::_WORDS_PER_COUNTER] >> np.uint64(12)
        return np.asarray((words.astype(np.float64) + 0.5) * 2.0**-52)

    def _cpu_normal(self, stream: str, start: int, count: int, size: int) -> Tensor:
        """float32 (count, size). Its bits are those of teachers and references: keep them."""
        out = torch.empty(count, size)
        if isinstance(out, FakeTensor):  # its values are never looked at
            return out
        words = -(-size // 2)  # one word of 64 bits for each pair of normals
        counters = -(-words // _WORDS_PER_COUNTER)
        bits = self._bits(stream, start * counters)
        for rows, columns in _chunks(count, counters * _WORDS_PER_COUNTER):
            raw = bits.random_raw(len(rows) * len(columns)).reshape(len(rows), len(columns))
            halves = raw[:, : words - columns.start].view(np.uint32)
            # Both sums are exact. The half keeps uniforms inside (0, 1), and logarithms finite.
            radius = torch.from_numpy(halves[:, 0::2] * 2.0**-32).add_(2.0**-33)
            angle = torch.from_numpy(halves[:, 1::2] + 0.5).mul_(2.0 * math.pi * 2.0**-32)
            radius.log_().mul_(-2.0).sqrt_()
            chunk = out[rows.start : rows.stop, 2 * columns.start : 2 * columns.stop]
            chunk[:, 0::2] = angle.cos().mul_(radius)
            chunk[:, 1::2] = angle.sin_().mul_(radius)[:, : chunk.shape[1] // 2]
        return out

    def _device_normal(
        self, stream: str, start: int, count: int, size: int, device: torch.device | str
    ) -> Tensor:
        """float32 (count, size), by some 120 operations that never wait for the device."""
        block = torch.arange(-(-size // _WORDS_PER_COUNTER), device=device)
        sample = torch.arange(start, start + count, device=device).unsqueeze(1)
        # In this order the first rounds broadcast rows against columns and cost next to nothing.
        counter = (block, sample >> 32, sample & _LOW, torch.zeros_like(block))
        words = philox(counter, _digest(f"{self.seed}/{stream}"))
        drawn = box_muller(torch.stack(words, dim=1)).flatten(1)
        return drawn.narrow(1, 0, size).contiguous()

    def _bits(self, stream: str, counter: int) -> np.random.Philox:
        key = np.array([self.seed, _digest(stream)], dtype=np.uint64)
        # numpy advances the counter before its first block, so counter - 1 + 1 blocks in.
        return np.random.Philox(key=key, counter=counter)


def _digest(text: str) -> int:
    """64 bits of a text's hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _chunks(rows: int, columns: int) -> Iterator[tuple[range, range]]:
    """Whole rows, or parts of one, in order; ``_CHUNK`` elements each and less at the ends."""
    width = max(1, min(columns, _CHUNK))
    height = _CHUNK // width
    for row in range(0, rows, height):
        for column in range(0, columns, width):
            yield range(row, min(row + height, rows)), range(column, min(column + width, columns))


def philox(counter: Words, key: int) -> Words:
    """Philox-4x32 with ten rounds: four random words for each counter of four words.

    Products of two words wrap around in int64, which costs them their sign and none of their bits.

    Args:
        counter: broadcast against each other.
        key: 64 bits.
    """
    a, b, c, d = counter
    keys = (key & _LOW, key >> 32)
    for turn in range(_ROUNDS):
        left, right = ((k + turn * step) & _LOW for k, step in zip(keys, _KEY_STEPS, strict=True))
        first, second = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        # The low halves stay unmasked: they are only ever used under the next round's mask.
        a, b, c, d = (
            ((second >> 32) ^ b ^ left) & _LOW,
            second,
            ((first >> 32) ^ d ^ right) & _LOW,
            first,
        )
    return a, b & _LOW, c, d & _LOW


def box_muller(words: Tensor) -> Tensor:
    """Normal numbers, float32, from as many words of 32 bits in int64, both (rows, 4, columns)."""
    out = words.float()
    radius, angle = out.chunk(2, dim=1)
    radius.mul_(2.0**-32).add_(2.0**-33).log_().mul_(-2.0).sqrt_()
    cosine = angle.mul_(2.0 * math.pi * 2.0**-32).cos()
    angle.sin_().mul_(radius)
    radius.mul_(cosine)
    return out
