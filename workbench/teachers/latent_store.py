"""Encoded images on disk: each once for each autoencoder and size, memory-mapped when read.

A store holds the images of one source in shards of consecutive numbers, so that ranks share
them out, and an interrupted encoding goes on at the first missing one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.data.images import DECODING, BadImageError, LoadedImage, PairImages
from workbench.data.listing import TOLERATED, Skipped
from workbench.errors import RequestError
from workbench.hashing import fingerprint
from workbench.teachers.folder import component_fingerprint
from workbench.teachers.pipeline import PipelineTeacher
from workbench.teachers.pretrain import Progress, silent
from workbench.teachers.shards import ShardFolder, Shards, open_shard, write_shard
from workbench.workspace import written_aside

_AUTOENCODER = ("vae",)
_MOST_ROWS = 4096
_LARGEST_BATCH, _BATCH_PIXELS = 64, 2**22
_THREADS = 8
_LATENTS, _ROWS, _DIGESTS, _BAD = "latents", "rows", "sha256", "bad"
SKIPPED_FILE = "skipped.tsv"

_Bad = tuple[int, str]
"""An image's number, and why it cannot be used."""

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def latents_identity(teacher: PipelineTeacher, images: PairImages) -> str:
    """Short hash of everything that decides the latents of a source's images."""
    vae = teacher.pipeline.vae
    facts = {
        "images": images.identity,
        "decoding": DECODING,
        "autoencoder": component_fingerprint(teacher.folder, _AUTOENCODER),
        "resolution": teacher.resolution,
        "dtype": str(vae.dtype),
    }
    return fingerprint(facts)


class LatentStore(ShardFolder):
    """The latents of one source's images in one folder.

    Images that cannot be used are skipped and remembered. Reading sees the shards that were whole
    when the store was opened or last refreshed.

    Args:
        folder: named by :func:`latents_identity`; made when something is written.
        shard_bytes: about how much one file holds, and an interrupted encoding loses at most.
    """

    def __init__(
        self,
        folder: Path,
        images: PairImages,
        teacher: PipelineTeacher,
        shard_bytes: int = 128 * 2**20,
    ) -> None:
        self.folder, self.images, self.teacher = folder, images, teacher
        self.row_bytes = 4 * int(np.prod(teacher.latent_shape))
        self.shard_rows = min(_MOST_ROWS, max(1, shard_bytes // self.row_bytes))
        self.batch = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // teacher.resolution**2))
        self.refresh()

    def refresh(self) -> None:
        opened = {number: open_shard(self._file(number)) for number in range(self._count)}
        self._whole = {number: shard for number, shard in opened.items() if shard is not None}
        self._table = Shards(list(self._whole.values()), _ROWS)

    def missing(self) -> list[int]:
        """The numbers of the shards that are not stored."""
        return [number for number in range(self._count) if number not in self._whole]

    def encode(
        self, missing: Sequence[int], rank: int = 0, world: int = 1, show: Progress = silent
    ) -> None:
        """Encode this rank's share of the missing shards. Refresh the store when all are done.

        The latents are the same bits at any ``world``, and after any interruption.

        Args:
            missing: the same on every rank.
            show: told after every call of the autoencoder; what it raises stops the encoding, and
                whole shards stay.

        Raises:
            RequestError: above 1 % of all images cannot be used, or no room on the disk.
            WorkbenchError: a shard could not be written.
        """
        self._check_room(len(missing))
        mine = missing[rank::world]
        total, before = sum(len(self._range(number)) for number in mine), 0
        bad = self.bad()

        def seen(done: int, found: list[_Bad]) -> None:
            show("encoding images", before + done, total)
            self.judge([*bad, *found])

        for number in mine:
            bad += self._encode_shard(number, seen)
            before += len(self._range(number))

    def bad(self) -> list[_Bad]:
        """The images that cannot be used, by number, and why."""
        stored = [json.loads(bytes(shard[_BAD].tolist())) for shard in self._whole.values()]
        return [(int(row), str(reason)) for part in stored for row, reason in part]

    def judge(self, bad: Sequence[_Bad]) -> None:
        """Stop if too many images cannot be used, and list them in the store's folder.

        Raises:
            RequestError: above 1 % of all images.
        """
        if len(bad) <= TOLERATED * len(self.images):
            return
        skipped = [Skipped(self.images.name(row), reason) for row, reason in bad]
        file = write_skipped(self.folder, skipped)
        first = skipped[0]
        raise RequestError(
            f"{len(bad)} of {len(self.images)} images cannot be used, above {TOLERATED:.0%}; the "
            f"first: {first.where} {first.reason}. All so far are listed in {file}."
        )

    def good(self) -> NDArray[np.int64]:
        """The numbers of the images that have latents, in order."""
        return np.concatenate([np.zeros(0, np.int64), *self._columns(_ROWS)])

    def digests(self) -> NDArray[np.uint8]:
        """SHA-256 (N, 32) of what each of :meth:`good` was made from."""
        return np.concatenate([np.zeros((0, 32), np.uint8), *self._columns(_DIGESTS)])

    def select(self, index: Tensor) -> Tensor:
        """Latents, float32, of the ``index``-th of :meth:`good` (any order, repeats allowed)."""
        return self._table.gather([_LATENTS], index.numpy())[_LATENTS]

    @property
    def _count(self) -> int:
        return -(-len(self.images) // self.shard_rows)

    def _file(self, number: int) -> Path:
        return self.folder / f"shard-{self.shard_rows}-{number:06d}.safetensors"

    def _range(self, number: int) -> range:
        first = number * self.shard_rows
        return range(first, min(len(self.images), first + self.shard_rows))

    def _columns(self, name: str) -> list[NDArray[Any]]:
        return [shard[name].numpy() for shard in self._whole.values()]

    def _encode_shard(
        self,
        number: int,
        seen: Callable[[int, list[_Bad]], None],
    ) -> list[_Bad]:
        rows = self._range(number)
        device = next(self.teacher.pipeline.vae.parameters()).device
        bad: list[_Bad] = []
        good: list[tuple[int, bytes]] = []
        latents: list[Tensor] = []
        waiting: list[Tensor] = []

        def encode() -> None:
            images = torch.stack(waiting).to(device)
            latents.append(self.teacher.encode_images(images).float().cpu())
            waiting.clear()
            seen(len(good) + len(bad), bad)

        for row, image in zip(rows, ahead(self._load, rows, 2 * self.batch), strict=True):
            if isinstance(image, str):
                bad.append((row, image))
                seen(len(good) + len(bad), bad)
                continue
            good.append((row, image.digest))
            waiting.append(image.pixels)
            if len(waiting) == self.batch:
                encode()
        if waiting:
            encode()
        self._write(number, good, latents, bad)
        return bad

    def _load(self, row: int) -> LoadedImage | str:
        """An image, or why it cannot be used."""
        try:
            return self.images.load(row, self.teacher.resolution)
        except BadImageError as error:
            return str(error)

    def _write(
        self,
        number: int,
        good: Sequence[tuple[int, bytes]],
        latents: Sequence[Tensor],
        bad: Sequence[_Bad],
    ) -> None:
        none = torch.zeros(0, *self.teacher.latent_shape)
        digests = b"".join(digest for _, digest in good)
        write_shard(
            self._file(number),
            {
                _LATENTS: torch.cat([none, *latents]),
                _ROWS: torch.tensor([row for row, _ in good], dtype=torch.int64),
                _DIGESTS: torch.tensor(list(digests), dtype=torch.uint8).reshape(-1, 32),
                _BAD: torch.tensor(list(json.dumps(bad).encode()), dtype=torch.uint8),
            },
        )

    def _check_room(self, shards: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = shards * self.shard_rows * self.row_bytes
        wanted = min(wanted, len(self.images) * self.row_bytes)
        free = shutil.disk_usage(self.folder).free
        if wanted > free:
            raise RequestError(
                f"The latents of the images take {wanted / 2**30:.1f} GiB, but {self.folder} has "
                f"{free / 2**30:.1f} GiB left. Set data.limit to at most "
                f"{free // self.row_bytes}, or use another --workspace."
            )


def write_skipped(folder: Path, skipped: Iterable[Skipped]) -> Path:
    """Write the list of skipped images, one per line: place, tab, reason."""
    file = folder / SKIPPED_FILE
    lines = (f"{item.where}\t{item.reason}\n" for item in skipped)
    with written_aside(file) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    return file


def ahead(
    function: Callable[[ItemT], ResultT], items: Iterable[ItemT], depth: int
) -> Iterator[ResultT]:
    """Results in the order of the items, computed by threads at most ``depth`` items ahead."""
    waiting: deque[Future[ResultT]] = deque()
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
