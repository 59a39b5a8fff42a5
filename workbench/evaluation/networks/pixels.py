"""From images to what a network takes, each as the score's own authors prepare it.

Every network judges the bytes that a PNG of the image would hold, so that a folder of saved images
scores like the sampler that drew them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.evaluation.grids import to_pixels

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class NetworkInput:
    """``apply`` takes images (B, 3, H, W) in [0, 1] to a network's input (B, 3, S, S).

    ``name`` says how and enters fingerprints.
    """

    name: str
    apply: Callable[[Tensor], Tensor]


def to_bytes(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as uint8, rounded to nearest, on their own device."""
    return images.detach().float().clamp(0.0, 1.0).mul(255.0).round().to(torch.uint8)


def clean_resize(images: Tensor, size: int) -> Tensor:
    """clean-fid's resizing (Parmar et al. 2022): PIL's bicubic in float, on each channel's bytes.

    Bit for bit ``cleanfid.resize.build_resizer("clean")``, twice as fast: planes are resized in
    threads and land where the network reads them.

    Args:
        images: (B, 3, H, W) in [0, 1].
        size: S, height and width of the result.

    Returns:
        (B, 3, S, S) float32 in [0, 255], on the CPU.
    """
    from PIL import Image

    planes = to_bytes(images).cpu().numpy().astype(np.float32).reshape(-1, *images.shape[2:])
    resized = np.empty((len(planes), size, size), np.float32)

    def resize(index: int) -> None:
        plane = Image.fromarray(planes[index])
        plane = plane.resize((size, size), resample=Image.Resampling.BICUBIC)
        np.clip(np.asarray(plane), 0, 255, out=resized[index])

    in_threads(resize, range(len(planes)))
    return torch.from_numpy(resized).reshape(len(images), 3, size, size)


def pillow_images(images: Tensor) -> list[Any]:
    """The B images (B, 3, H, W) in [0, 1] as Pillow's."""
    from PIL import Image

    return [Image.fromarray(each) for each in to_pixels(images)]


def pillow_preparation(name: str, transform: Callable[[Any], Tensor]) -> NetworkInput:
    """A transform of one Pillow image, as packages ship it, on a batch and in threads."""

    def apply(images: Tensor) -> Tensor:
        return torch.stack(in_threads(transform, pillow_images(images)))

    return NetworkInput(name, apply)


def squashed(
    size: int, mean: Sequence[float], std: Sequence[float], *, antialias: bool
) -> NetworkInput:
    """torch's bicubic to a square, whatever the proportions, then standardized."""

    def apply(images: Tensor) -> Tensor:
        pixels = to_bytes(images).float() / 255.0
        resized = F.interpolate(pixels, size=(size, size), mode="bicubic", antialias=antialias)
        return standardized(resized, mean, std)

    kind = "antialiased" if antialias else "plain"
    return NetworkInput(f"torch-bicubic-{kind}-squash{size}", apply)


def padded(size: int, mean: Sequence[float], std: Sequence[float]) -> NetworkInput:
    """torch's antialiased bicubic of the longer side to ``size``, black around, standardized."""

    def apply(images: Tensor) -> Tensor:
        pixels = to_bytes(images).float() / 255.0
        scale = size / max(pixels.shape[2:])
        height, width = (round(side * scale) for side in pixels.shape[2:])
        if (height, width) != tuple(pixels.shape[2:]):
            pixels = F.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
        top, left = (size - height) // 2, (size - width) // 2
        around = (left, size - width - left, top, size - height - top)
        return standardized(F.pad(pixels, around), mean, std)

    return NetworkInput(f"torch-bicubic-antialiased-pad{size}", apply)


def standardized(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) minus each channel's mean, over its deviation."""
    center, scale = (pixels.new_tensor(list(values)).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - center) / scale


def in_threads(work: Callable[[Item], Made], items: Sequence[Item]) -> list[Made]:
    """``work`` of each item, in order; worth it where the work lets go of Python's lock."""
    return list(_threads().map(work, items))


@cache
def _threads() -> ThreadPoolExecutor:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return ThreadPoolExecutor(cores, thread_name_prefix="pixels")


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of each pair of rows (B, D), (B, D) as (B, 1)."""
    product = F.normalize(left.float(), dim=-1) * F.normalize(right.float(), dim=-1)
    return product.sum(dim=-1, keepdim=True)


def each_prompt_once(embed: Callable[[list[str]], Tensor], prompts: Sequence[str]) -> Tensor:
    """Embeddings (B, D) of the prompts; one that occurs more than once is read once."""
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    return embed(list(distinct))[[distinct[prompt] for prompt in prompts]]


class OncePerBatch:
    """A function of images that remembers its last answer: scorers that share a network ask it
    one after the other for the same batch."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._last: tuple[weakref.ref[Tensor], int] | None = None
        self._answer: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if self._answer is None or not self._is_last(images):
            self._answer = self._function(images)
            self._last = (weakref.ref(images), _version(images))
        return self._answer

    def _is_last(self, images: Tensor) -> bool:
        return self._last is not None and (
            self._last[0]() is images and self._last[1] == _version(images)
        )


def _version(images: Tensor) -> int:
    """Grows with every change in place; a tensor of inference mode counts none."""
    return 0 if images.is_inference() else images._version
