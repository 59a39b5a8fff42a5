"""Encodings without their padding: all prompts' tokens in a row, and where each prompt begins.

A network that masks padding never sees it, so that zeros in its place change no output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.teachers.sealed import Shards

_FLAT = "flat."
"""Begins the names of tensors whose rows are tokens (all prompts' tokens, ...), not prompts."""

_STARTS, _WIDTH = "token_starts", "token_width"


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
