"""Features in sample order: rows of all batches and ranks, put back together on disk."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import WorkbenchError

Rows = NDArray[np.float32]
"""(N, D), one row a sample. Those of an evaluation are a mapped file: read them in blocks."""

Array = NDArray[np.float64]
_BLOCK_VALUES = 2**19
"""Numbers of a block: 256 rows of 2048. Sums over blocks depend on it in their last bits."""

ROWS = "rows"
"""Name of the tensor in a batch's file."""


@dataclass(frozen=True)
class Batch:
    """The rows of ``count`` consecutive samples in a safetensors file."""

    file: Path
    count: int

    def read(self) -> Rows:
        """Its rows (count, D).

        Raises:
            WorkbenchError: the file is gone or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="np") as content:
                rows: Rows = content.get_tensor(ROWS)
        except (OSError, SafetensorError) as error:
            raise WorkbenchError(
                f"{self.file} cannot be read ({error}): no score. All ranks must share its folder."
            ) from error
        return rows


class FeatureTable:
    """Where the rows of each sample are, by extractor.

    Rows themselves stay on disk and nothing is summed on the way, so that memory does not grow
    with the samples, and neither batches nor ranks can change a bit of a score.
    """

    def __init__(self) -> None:
        self._batches: dict[str, dict[int, Batch]] = {}
        self._mapped: dict[tuple[str, int], Rows] = {}

    def add(self, extractor: str, start: int, batch: Batch) -> None:
        """Add the rows of samples ``start .. start + batch.count``."""
        found = self._batches.setdefault(extractor, {})
        if start not in found or found[start].count < batch.count:  # kept in chunks of two sizes
            found[start] = batch

    def merge(self, other: FeatureTable) -> None:
        """Add what another rank has seen."""
        for extractor, batches in other._batches.items():
            for start, batch in batches.items():
                self.add(extractor, start, batch)

    def covers(self, extractor: str, start: int, count: int) -> bool:
        """Whether every sample of ``start .. start + count`` has its row."""
        reached = start
        for first, batch in sorted(self._batches.get(extractor, {}).items()):
            if first > reached:
                break
            reached = max(reached, first + batch.count)
        return reached >= start + count

    def rows(self, extractor: str, samples: int) -> Rows:
        """The rows (samples, D) in sample order, mapped read-only from a file without a name.

        Raises:
            WorkbenchError: a sample is missing: part of the samples give no score.
        """
        batches = sorted(self._batches.get(extractor, {}).items())
        if not self.covers(extractor, 0, samples):
            seen = sum(batch.count for _, batch in batches)
            raise WorkbenchError(
                f"Only {seen} of {samples} samples were seen by {extractor.partition('/')[0]}: "
                "no score."
            )
        if (extractor, samples) not in self._mapped:
            parts = ((start, batch.read()[: max(0, samples - start)]) for start, batch in batches)
            self._mapped[extractor, samples] = mapped(parts, samples, batches[0][1].file.parent)
        return self._mapped[extractor, samples]


def mapped(parts: Iterable[tuple[int, Rows]], count: int, folder: Path | None = None) -> Rows:
    """Rows (count, D) as a file that ends with the array; memory holds one part at a time.

    Args:
        parts: (place of the first row, rows (B, D)), which cover 0 .. count.
        folder: on whose disk the file is; None = the system's folder for temporary files.

    Raises:
        WorkbenchError: no room on the disk.
    """
    width = 0
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for start, rows in parts:
                width = rows.shape[1]
                file.seek(start * width * rows.itemsize)
                file.write(np.ascontiguousarray(rows, np.float32).tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r", shape=(count, width))
    except OSError as error:
        raise WorkbenchError(f"Could not write {count} rows of features: {error}.") from error


def chosen(rows: Rows, places: NDArray[np.int64]) -> Rows:
    """``rows[places]`` as :func:`mapped` rows."""
    size = _block_rows(rows)
    starts = range(0, len(places), size)
    return mapped(((start, rows[places[start : start + size]]) for start in starts), len(places))


def blocks(rows: NDArray[Any], size: int | None = None) -> Iterator[tuple[int, Array]]:
    """(place of the first row, up to ``size`` rows in float64), in order; each block is a copy.

    Args:
        size: None = as many as are 4 MB.
    """
    size = size or _block_rows(rows)
    for start in range(0, len(rows), size):
        block = rows[start : start + size].astype(np.float64, subok=False)
        _let_go(rows)
        yield start, block


def _block_rows(rows: NDArray[Any]) -> int:
    width: int = rows.shape[1]
    return max(1, _BLOCK_VALUES // max(1, width))


def _let_go(rows: NDArray[Any]) -> None:
    """Pages of a mapped file that were read count as this process's memory until it says no."""
    pages = getattr(rows, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
