"""Images in classes, with the prompts that ask for each class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class LabeledImages(ABC):
    """A data set that comes with the package.

    Attributes:
        name: in settings.
        identity: of exactly these images, for fingerprints.
        origin: where they are from, for people.
        network: the bundled network that looks at such images (``evaluation.catalog``).
        wordings: prompts of one class.
    """

    name: str
    identity: str
    origin: str
    network: str
    wordings: int

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]:
        """Those of the first class, then those of the second, ..."""

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """The class of each image, int64 (N,)."""

    @abstractmethod
    def images(self, side: int, limit: int | None = None) -> Tensor:
        """The first images, or all: float32 (N, 3, side, side) in [0, 1]."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        return len(self.prompts) // self.wordings

    def prompts_of(self, label: int) -> tuple[str, ...]:
        """The wordings of one class."""
        return self.prompts[label * self.wordings : (label + 1) * self.wordings]

    def class_counts(self) -> dict[int, int]:
        """How often each class occurs."""
        counts: Sequence[int] = torch.bincount(self.labels, minlength=self.classes).tolist()
        return dict(enumerate(counts))
