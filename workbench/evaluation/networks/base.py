"""What the networks have in common."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers._torchvision import prepare_torchvision


def metrics_package(name: str) -> Any:
    """A module of the extra ``metrics``, with a torchvision that imports beside this torch.

    Raises:
        RequestError: it is not installed.
    """
    prepare_torchvision()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RequestError(
            f"The package {error.name!r} is missing; install workbench with its metrics: "
            "pip install 'workbench-sid[metrics]'."
        ) from error


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
