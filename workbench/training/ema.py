"""Exponential moving average of the generator, with its half-life in images."""

from __future__ import annotations

import torch
from torch import nn

from workbench.training.parallel import local_tensors


def ema_decay(batch_size: int, halflife_nimg: float) -> float:
    """Per-update decay whose weight halves every ``halflife_nimg`` images; 0 copies."""
    return 0.5 ** (batch_size / halflife_nimg) if halflife_nimg > 0 else 0.0


def halflife_at(nimg: int, halflife_nimg: float, rampup: float | None) -> float:
    """The half-life in images while ``nimg`` have been seen: at most ``rampup`` times them.

    The rule of EDM's training (Karras et al. 2022), whose own share of 0.05 leaves an average over
    ten updates after two hundred. With a constant half-life H the share 2^(-n/H)
    of the average is still the undistilled teacher after n images: 13 % of it at 12.8 kimg with
    H = 4.4 kimg. With the warm-up the first update of the generator is copied whole, but where the
    method lets it wait: then it counts as after so many images.

    Example:
        >>> halflife_at(12_800, 4_400, 0.25), halflife_at(128_000, 4_400, 0.25)
        (3200.0, 4400)
    """
    return halflife_nimg if rampup is None else min(halflife_nimg, rampup * nimg)


@torch.no_grad()
def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy each rank's shards, whatever the target held (new memory may hold NaN)."""
    held, given = local_tensors(target.parameters()), local_tensors(source.parameters())
    torch._foreach_copy_(held, given)


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay average + (1 - decay) network, on each rank's shards, in one call."""
    means, values = local_tensors(average.parameters()), local_tensors(network.parameters())
    torch._foreach_lerp_(means, values, 1 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
