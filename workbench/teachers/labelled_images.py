"""Small data sets of images in classes that prompts ask for: enough to train a small teacher on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images in classes, and the prompts that ask for each class.

    Attributes:
        name: in settings.
        identity: of exactly these images, for fingerprints.
        origin: where they are from, for people.
        prompts: those of the first class, then those of the second, ...
        wordings: prompts of one class.
        load: side in pixels -> images float32 (N, 3, side, side) in [0, 1], labels int64 (N,).
    """

    name: str
    identity: str
    origin: str
    prompts: tuple[str, ...]
    wordings: int
    load: Callable[[int], tuple[Tensor, Tensor]]

    @property
    def classes(self) -> int:
        return len(self.prompts) // self.wordings

    def prompts_of(self, label: int) -> tuple[str, ...]:
        """The wordings of one class."""
        return self.prompts[label * self.wordings : (label + 1) * self.wordings]

    def class_counts(self, side: int) -> dict[int, int]:
        """How often each class occurs."""
        counts: Sequence[int] = torch.bincount(self.load(side)[1], minlength=self.classes).tolist()
        return dict(enumerate(counts))
