"""Counting the bytes that a computation keeps alive, without doing it: torch's fake tensors.

A fake tensor has shape, type and device but no memory, so that a 12 B network's training step can
be followed on a laptop, operation by operation.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Sums the storages that operations make while they live; views count once.

    Memory that one kernel takes and frees inside itself is not seen.

    Args:
        ignored: tensors that were there before and do not count, parameters for example.

    Attributes:
        peak: the most bytes that were alive.
        peak_kept: those of them that were set apart with :meth:`keep`.
    """

    def __init__(self, ignored: Iterable[Tensor]) -> None:
        # torch leaves this constructor without types.
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.peak_kept = 0
        self._now = self._kept = 0
        self._sizes: dict[int, int] = {}
        self._ignored = [tensor.untyped_storage() for tensor in ignored]
        self._sizes.update({storage._cdata: 0 for storage in self._ignored})

    def keep(self, size: int, kept: int) -> None:
        """Of bytes alive, ``kept`` stay, counted apart, and the others live on elsewhere."""
        self._now -= size
        self._kept += kept

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes()
        if self._now + self._kept > self.peak:
            self.peak, self.peak_kept = self._now + self._kept, self._kept
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
