"""Safetensors files that appear complete or not at all, and folders of them read as one table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.workspace import PARTIAL, written_aside


def write_shard(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a temporary file, flush and rename it, so that an interruption leaves no file.

    Raises:
        WorkbenchError: it cannot be written.
    """
    try:
        with written_aside(file) as partial:
            save_file(dict(tensors), partial)
    except (OSError, SafetensorError) as error:
        raise WorkbenchError(f"Cannot write {file}: {error}.") from error


def open_shard(file: Path) -> dict[str, Tensor] | None:
    """The memory-mapped tensors of a file; None if it is missing or cut off."""
    try:
        with safe_open(file, framework="pt") as stored:
            names = stored.keys()
            return {name: stored.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None


class ShardFolder(ABC):
    """A folder of shards, which several processes read and one run at a time writes.

    Reading sees the shards that were whole when it was opened or last refreshed.
    """

    folder: Path

    @abstractmethod
    def refresh(self) -> None:
        """Look again at what is on disk."""

    @contextmanager
    def locked(self, timeout: float = -1.0) -> Iterator[bool]:
        """Whether this process alone may write; waits up to ``timeout`` seconds (-1: for ever)."""
        from filelock import FileLock, Timeout

        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock", timeout=timeout)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            self.refresh()
            yield True
        finally:
            lock.release()

    def sweep(self) -> int:
        """Delete damaged and unfinished files, while locked; returns how many were damaged."""
        for partial in self.folder.glob(f".*{PARTIAL}"):
            partial.unlink()
        damaged = [file for file in self.folder.glob("*.safetensors") if open_shard(file) is None]
        for file in damaged:
            file.unlink()
        return len(damaged)


class Shards:
    """Memory-mapped shards as one table of rows, in their order.

    Args:
        key: a tensor that every shard has, one row for each of its rows.
    """

    def __init__(self, shards: Sequence[Mapping[str, Tensor]], key: str) -> None:
        self.shards = shards
        lengths = [len(shard[key]) for shard in shards]
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def holding(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[Mapping[str, Tensor], Tensor, Tensor]]:
        """Shards that hold some of these rows, each with the places and the rows inside it."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            inside = rows[places] - self._starts[owner]
            yield self.shards[owner], torch.from_numpy(places), torch.from_numpy(inside)

    def gather(self, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Copies of some rows, in the order asked for."""
        example = self.shards[0]
        out = {name: example[name].new_empty(len(rows), *example[name].shape[1:]) for name in names}
        for shard, places, inside in self.holding(rows):
            for name in names:
                out[name][places] = shard[name][inside]
        return out
