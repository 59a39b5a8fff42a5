"""Batch sizes that fit a device's memory, for sampling and for decoding.

Neither number changes a sample but in its last bits: noise is addressed by sample, and no layer
looks across a batch. Both are powers of two (or 250), and of an eighth of the device's whole
memory unless little of it is free, so that equal devices take equal chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LARGEST = 250
"""The largest batch that is chosen automatically; more is no faster."""

_SHARE = 8  # of all memory: networks, moments and the caching allocator have the rest
_FREE_SHARE = 2  # of what is free: kernels' own space, and fragments

_FP32 = 4
_CHANNELS = 128  # of the widest decoders at full resolution
_DECODER_TENSORS = 3  # input, hidden and output of a residual block
_WIDTHS = 16  # values a token holds at once: residual, q, k, v, and a feed-forward of 4 to 6 widths
_GUIDED = 2  # guidance evaluates every sample twice
_PICTURES = 4  # an image as decoded, checked, in bytes and resized


def chunk_memory(device: torch.device) -> int:
    """Bytes on a device that one chunk may take."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        import psutil

        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
    return min(total // _SHARE, free // _FREE_SHARE)


def auto_batch_size(
    memory: int, latent_shape: Sequence[int], parameters: int, resolution: int | None
) -> int:
    """Samples to draw at once, 1 to 250.

    A sample takes at most ``2 * tokens * width * 16`` float32 values in the network and four
    pictures after it. Tokens are the latents' positions (patches make them fewer); the width is
    that of a transformer of so many parameters, 12 width^2 a block and a block for each 64 of
    width, as SD3, SANA and FLUX nearly are. Attention is counted as if it kept no scores.

    Args:
        memory: bytes, of :func:`chunk_memory`.
        latent_shape: (C, H, W), or (D,) of points.
        parameters: of the network.
        resolution: height and width of its images; None for points.
    """
    tokens = math.prod(latent_shape[1:])
    width = math.ceil((64 * parameters / 12) ** (1 / 3))
    drawn = _GUIDED * tokens * width * _WIDTHS * _FP32
    seen = _PICTURES * 3 * (resolution or 0) ** 2 * _FP32
    fitting = memory // max(1, drawn + seen)
    return LARGEST if fitting >= LARGEST else _power_of_two(fitting)


def decode_batch_size(memory: int, resolution: int) -> int:
    """Latents to decode at once, at least 1: three tensors of 128 float32 channels an image.

    Args:
        memory: bytes, of :func:`chunk_memory`.
        resolution: height and width of the images in pixels.
    """
    return _power_of_two(memory // (_DECODER_TENSORS * _CHANNELS * resolution**2 * _FP32))


def _power_of_two(count: int) -> int:
    """The largest one that is no larger, at least 1."""
    return 1 << (max(1, count).bit_length() - 1)
