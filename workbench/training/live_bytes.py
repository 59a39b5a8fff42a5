"""Counting the bytes that a computation keeps alive, without doing it: torch's fake tensors.

A fake tensor has shape, type and device but no memory, so that a 12 B network's training step can
be followed on a laptop, operation by operation. torch's own trackers (MemTracker, FSDPMemTracker)
see one sharded network each, and refuse frozen ones: see docs/gpu.md.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_META = torch.device("meta")
_STEP = 1.001  # a peak so much higher than the last one looks at gradients again


class LiveBytes(TorchDispatchMode):
    """Sums the storages that operations make while they live; views count once.

    Memory that one kernel takes and frees inside itself is not seen.

    Args:
        ignored: tensors that were there before and do not count, parameters for example.
        gradients: bytes of gradients, asked for at the peak.

    Attributes:
        peak: the most bytes that were alive.
        peak_gradients: those of them that were gradients.
    """

    def __init__(self, ignored: Iterable[Tensor], gradients: Callable[[], int]) -> None:
        # torch leaves this constructor without types.
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.peak_gradients = 0
        self._gradients = gradients
        self._now, self._asked_at, self._paused = 0, 0.0, False
        self._sizes: dict[int, int] = {}
        self._ignored = {tensor.untyped_storage()._cdata: tensor for tensor in ignored}

    def __enter__(self) -> Self:
        self._mode = active_fake_mode()
        self._resize: Any = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> None:
            self._resize(storage, size)
            if not self._paused:
                self._count(storage, resized=True)

        # Sharding gives up gathered weights, and gathers them again, by resizing their storage.
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign,assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Not counting: what DTensor tries out on tensors of the global shape, say."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its shards come here by themselves
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            asked = args[0]  # more often than all that computes, and answered slowly by torch
            return _META if asked.fake_mode.in_kernel_invocation else asked.fake_device
        result = func(*args, **(kwargs or {}))
        if not self._paused and active_fake_mode() is self._mode:
            for tensor in (result,) if isinstance(result, Tensor) else tree_leaves(result):
                if isinstance(tensor, Tensor):
                    self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage, resized: bool = False) -> None:
        key, before = storage._cdata, self._sizes.get(storage._cdata)
        if (before is not None and not resized) or key in self._ignored:
            return
        if before is None:
            weakref.finalize(storage, self._release, key)
        self._sizes[key] = storage.nbytes()
        self._now += storage.nbytes() - (before or 0)
        if self._now > self.peak:
            self.peak = self._now
            if self.peak > _STEP * self._asked_at:
                self._asked_at, self.peak_gradients = self.peak, self._gradients()

    def _release(self, key: int) -> None:
        self._now -= self._sizes.pop(key, 0)
