"""Encoded prompts on disk: each prompt once for each text encoder, memory-mapped when read.

A store is a folder of safetensors shards; prompts of one that cannot be read count as not encoded.

Encodings keep the precision of the text encoders, and no padding that the network masks. From
shapes, in bfloat16: 100,000 prompts take 18 GB for SANA at 40 of 300 tokens a prompt (assumed;
139 GB at 300), and 420 GB for FLUX.1, which attends to all its 512.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.hashing import fingerprint
from workbench.teachers.base import Conditioning
from workbench.teachers.family import CallArguments
from workbench.teachers.folder import (
    MODEL_INDEX,
    component_fingerprint,
    family_of,
    quiet_libraries,
)
from workbench.teachers.pipeline import (
    ENCODE_BATCH,
    PromptEncoder,
    encoding_call,
    text_precisions,
)
from workbench.teachers.pretrain import Progress, silent
from workbench.teachers.shards import ShardFolder, Shards, open_shard, write_shard

_MOST_ROWS = 4096
_PROMPT, _CUT = "prompt_sha256", "cut"  # beside the encoder's own tensors
_UNCOND = "uncond"
_FLAT = "flat."
"""Begins the names of tensors whose rows are tokens (all prompts' tokens, ...), not prompts."""

_STARTS, _WIDTH = "token_starts", "token_width"


def text_identity(folder: Path, call: CallArguments | None = None) -> str:
    """Short hash of everything that decides a teacher's encodings, known before loading anything.

    These are the files of tokenizers and text encoders, the precision that each is loaded in and
    the arguments of the encoding, not the transformer: teachers that share their encoders share
    their encodings.

    Raises:
        RequestError: the folder holds no supported pipeline.
    """
    family = family_of(folder / MODEL_INDEX)
    facts = {
        "family": family.pipeline_class,
        "files": component_fingerprint(folder, family.text_components),
        "arguments": encoding_call(folder, call),
        "precision": {name: str(dtype) for name, dtype in text_precisions(folder).items()},
    }
    return fingerprint(facts)


class StoredPrompts:
    """The encodings of N prompts, in order; ``select`` copies only the rows asked for."""

    def __init__(self, table: _Table, places: NDArray[np.int64]) -> None:
        self._table, self._places = table, places

    def __len__(self) -> int:
        return len(self._places)

    def select(self, index: Tensor) -> Conditioning:
        """Rows by an int64 index (any order, repeats allowed)."""
        return self._table.gather(self._places[index.numpy()])

    def cut(self) -> list[int]:
        """Which of the prompts were too long for the encoder and lost their ends."""
        flagged = [shard[_CUT].numpy() for shard in self._table.shards]
        return np.flatnonzero(np.concatenate(flagged)[self._places]).tolist()


class TextStore(ShardFolder):
    """The encodings of one text encoder in one folder.

    Several ranks may :meth:`encode` their shares at once; two *runs* hold :meth:`locked` in turn.

    Args:
        folder: named by :func:`text_identity`; made when something is written.
        shard_bytes: about how much one file holds, and an interrupted encoding loses at most.
    """

    def __init__(self, folder: Path, shard_bytes: int = 128 * 2**20) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.refresh()

    def refresh(self) -> None:
        """Read again what is on disk."""
        files = sorted(self.folder.glob("shard-*.safetensors"))
        shards = [shard for shard in map(open_shard, files) if shard is not None]
        self._table = _Table(shards)
        self._uncond = open_shard(self._uncond_file)

    @property
    def _uncond_file(self) -> Path:
        return self.folder / f"{_UNCOND}.safetensors"

    def has_uncond(self) -> bool:
        return self._uncond is not None

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """The prompts that are not stored, each once, in order of appearance."""
        hashes = prompt_hashes(prompts)
        absent = np.flatnonzero(self._table.find(hashes) < 0)
        _, first = np.unique(hashes[absent], return_index=True)
        return [prompts[place] for place in absent[np.sort(first)]]

    def encode(
        self,
        encoder: PromptEncoder,
        prompts: Sequence[str],
        rank: int = 0,
        world: int = 1,
        show: Progress = silent,
    ) -> None:
        """Encode this rank's share of prompts, and the empty prompt unless it is stored.

        Every rank must pass the same prompts (those that are :meth:`missing`). The encodings are
        the same bits at any ``world``, and after any interruption. Call :meth:`refresh` when all
        ranks are done.

        Args:
            show: told after every call of the encoder; what it raises stops the encoding, and
                whole shards stay.

        Raises:
            RequestError: the disk has no room for all of them.
            WorkbenchError: a shard could not be written.
        """
        with quiet_libraries():
            if self._uncond is None:
                write_shard(self._uncond_file, _on_cpu(encoder.uncond()))
                self._uncond = open_shard(self._uncond_file)
            row_bytes = sum(tensor.nbytes for tensor in self.uncond().tensors.values())
            size = _rows_per_shard(len(prompts), self.shard_bytes // row_bytes, world)
            mine = [prompts[i : i + size] for i in range(rank * size, len(prompts), world * size)]
            total, done = sum(map(len, mine)), 0
            for part in mine:
                encoded: list[Conditioning] = []
                for batch in _batches(part):
                    encoded.append(_encoded(encoder, batch))
                    done += len(batch)
                    show("encoding prompts", done, total)
                kept = without_padding(Conditioning.cat(encoded).tensors, encoder.family.token_mask)
                if part is mine[0]:
                    self._check_room(len(prompts), kept, len(part))
                self._write_shard(part, kept, encoder.truncated_prompts(part))

    def view(self, prompts: Sequence[str]) -> StoredPrompts:
        """Encodings of these prompts, in order; nothing is read yet.

        Raises:
            WorkbenchError: some are not stored.
        """
        places = self._table.find(prompt_hashes(prompts))
        absent = np.flatnonzero(places < 0)
        if len(absent):
            raise WorkbenchError(
                f"{len(absent)} of {len(prompts)} prompts are not encoded in {self.folder}, first "
                f"{prompts[absent[0]]!r}."
            )
        return StoredPrompts(self._table, places)

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        """Encodings of these prompts, in order, copied."""
        return self.view(prompts).select(torch.arange(len(prompts)))

    def uncond(self) -> Conditioning:
        """The empty prompt as guidance wants it, one row.

        Raises:
            WorkbenchError: it is not stored.
        """
        if self._uncond is None:
            raise WorkbenchError(f"The empty prompt is not encoded in {self.folder}.")
        return Conditioning(self._uncond).map(torch.clone)

    def _write_shard(
        self, prompts: Sequence[str], kept: Mapping[str, Tensor], cut: list[int]
    ) -> None:
        hashes = prompt_hashes(prompts)
        flags = torch.zeros(len(prompts), dtype=torch.uint8)
        flags[cut] = 1
        table = torch.from_numpy(hashes.view(np.uint8).reshape(len(prompts), -1).copy())
        name = hashlib.sha256(hashes.tobytes()).hexdigest()[:16]
        tensors = {**kept, _PROMPT: table, _CUT: flags}
        write_shard(self.folder / f"shard-{name}.safetensors", tensors)

    def _check_room(self, prompts: int, kept: Mapping[str, Tensor], rows: int) -> None:
        """Estimate the size from the first prompts: how much is kept depends on their length."""
        each = sum(tensor.nbytes for tensor in kept.values()) / rows
        free = shutil.disk_usage(self.folder).free
        if prompts * each > free:
            raise RequestError(
                f"Encoding {prompts} prompts takes about {prompts * each / 2**30:.1f} GiB, but "
                f"{self.folder} has {free / 2**30:.1f} GiB left. Set prompts.limit to at most "
                f"{int(free / each)}, or use another --workspace."
            )


class _Table:
    """All shards as one table, looked up by the hash of the prompt."""

    def __init__(self, shards: Sequence[Mapping[str, Tensor]]) -> None:
        self._rows, self.shards = Shards(shards, _PROMPT), shards
        parts = [shard[_PROMPT].numpy().reshape(-1).view("S32") for shard in shards]
        hashes = np.concatenate(parts) if parts else np.empty(0, "S32")
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def find(self, hashes: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """The row of each hash, -1 if there is none."""
        if not len(self._sorted):
            return np.full(len(hashes), -1, np.int64)
        near = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        return np.where(self._sorted[near] == hashes, self._order[near], -1)

    def gather(self, rows: NDArray[np.int64]) -> Conditioning:
        """Rows of all shards, in the order asked for."""
        names = [name for name in self.shards[0] if name not in (_PROMPT, _CUT)]
        return Conditioning(gather_padded(self._rows, names, rows))


def prompt_hashes(prompts: Iterable[str]) -> NDArray[np.bytes_]:
    """SHA-256 of each prompt's UTF-8 text, as an array of 32-byte strings."""
    joined = b"".join(hashlib.sha256(prompt.encode()).digest() for prompt in prompts)
    return np.frombuffer(joined, "S32")


def _encoded(encoder: PromptEncoder, batch: Sequence[str]) -> Conditioning:
    """A batch of any size, encoded in the one shape that every batch has."""
    filled = [*batch, *[batch[-1]] * (ENCODE_BATCH - len(batch))]
    rows = encoder.encode(filled).select(slice(len(batch)))
    return Conditioning(_on_cpu(rows))


def _on_cpu(rows: Conditioning) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in rows.tensors.items()}


def _batches(prompts: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(prompts)
    while batch := list(islice(remaining, ENCODE_BATCH)):
        yield batch


def _rows_per_shard(prompts: int, fitting: int, world: int) -> int:
    """Prompts per shard: whole batches that fit a shard, and equally many shards for each rank."""
    most = min(_MOST_ROWS, max(ENCODE_BATCH, fitting))
    shards = max(1, -(-prompts // most))
    shards = -(-shards // world) * world
    return max(1, -(-prompts // (shards * ENCODE_BATCH))) * ENCODE_BATCH


def without_padding(rows: Mapping[str, Tensor], mask: str | None) -> dict[str, Tensor]:
    """What is stored of N encodings.

    Args:
        rows: tensors (N, ...) by name.
        mask: which of them says, with (N, tokens), what the network attends to; each prompt keeps
            its tokens up to the last such one. None: everything is kept.

    Returns:
        Tensors (N, ...) as they are; those of (N, tokens, ...) as ``flat.NAME`` (kept, ...), with
        the first of each prompt's rows in ``token_starts`` (N + 1,) and the ``token_width`` (1,)
        of them all with padding.
    """
    if mask is None:
        return dict(rows)
    seen = rows[mask] != 0
    width = seen.shape[1]
    numbers = torch.arange(1, width + 1)
    lengths = (seen * numbers).amax(1)
    lengths[lengths == 0] = width  # attention to nothing is to everything, padding included
    kept = numbers <= lengths[:, None]
    flat = [name for name, tensor in rows.items() if tensor.shape[:2] == seen.shape]
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    return {
        **{name: tensor for name, tensor in rows.items() if name not in flat},
        **{f"{_FLAT}{name}": rows[name][kept] for name in flat},
        _STARTS: starts,
        _WIDTH: torch.tensor([width]),
    }


def gather_padded(
    shards: Shards, names: Sequence[str], rows: NDArray[np.int64]
) -> dict[str, Tensor]:
    """The encodings of some rows, in the order asked for, copied; padding is zeros.

    Args:
        names: of the shards' tensors, those of :func:`without_padding`.
    """
    flat = [name for name in names if name.startswith(_FLAT)]
    whole = [name for name in names if name not in (*flat, _STARTS, _WIDTH)]
    out = shards.gather(whole, rows)
    example = shards.shards[0]
    for name in flat:
        shape = (len(rows), int(example[_WIDTH]), *example[name].shape[1:])
        out[name.removeprefix(_FLAT)] = example[name].new_zeros(shape)
    for shard, places, inside in shards.holding(rows) if flat else ():
        first, behind = shard[_STARTS][inside].tolist(), shard[_STARTS][inside + 1].tolist()
        for name in flat:
            padded, tokens = out[name.removeprefix(_FLAT)], shard[name]
            for place, start, end in zip(places.tolist(), first, behind, strict=True):
                padded[place, : end - start] = tokens[start:end]
    return out
