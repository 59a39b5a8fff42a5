"""Exponential moving average of the generator, with its half-life in images."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def ema_decay(batch_size: int, halflife_nimg: float) -> float:
    """Per-update decay whose weight halves every ``halflife_nimg`` images; 0 copies."""
    return 0.5 ** (batch_size / halflife_nimg) if halflife_nimg > 0 else 0.0


def averaged_copy(network: NetworkT) -> NetworkT:
    """A frozen float32 copy that will hold the average."""
    return copy.deepcopy(network).float().requires_grad_(False)


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) network; the same sharding on both sides."""
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value.to(mean.dtype), 1 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
