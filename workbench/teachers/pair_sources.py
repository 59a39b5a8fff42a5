"""Where a run's image-text pairs come from."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import Field
from torch import Tensor

from workbench.settings import FrozenConfig
from workbench.teachers.digits import load_digits_images, prompts_of


class PairsConfig(FrozenConfig):
    """Which image-text pairs a method learns from."""

    source: Literal["digits"] = Field(
        "digits", description="digits: the embedded scans with their prompts"
    )
    limit: int | None = Field(None, ge=2, description="only the first so many; none = all")


@dataclass(frozen=True)
class PairSet:
    """Image-text pairs in the source's order."""

    source: str
    prompts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def images(self, size: int) -> Tensor:
        """Images (N, 3, size, size) in [0, 1]."""
        return load_digits_images(size)[0][: len(self)]

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of images and prompts in their order."""
        digest = hashlib.sha256(self.images(32).contiguous().numpy().tobytes())
        digest.update("\n".join(self.prompts).encode())
        return digest.hexdigest()[:16]

    def as_dict(self) -> dict[str, object]:
        """Where they are from, how many, and which."""
        return {"source": self.source, "count": len(self), "fingerprint": self.fingerprint}


def read_pairs(config: PairsConfig) -> PairSet:
    """The pairs of a source, up to the limit. A digit's wordings take turns."""
    digits = [int(label) for label in load_digits_images()[1]]
    turns: Counter[int] = Counter()
    prompts = []
    for digit in digits:
        wordings = prompts_of(digit)
        prompts.append(wordings[turns[digit] % len(wordings)])
        turns[digit] += 1
    return PairSet(config.source, tuple(prompts[: config.limit]))
