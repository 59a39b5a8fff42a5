"""What turns images into the numbers that scores are computed from."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class FeatureExtractor:
    """Turns every image into one row of numbers, given its prompt where that matters.

    A feature network gives D features an image, a scorer of image against prompt one number (D is
    1).

    Attributes:
        name: for people.
        fingerprint: changes with anything that changes a row: weights, resizing, the network's own
            precision.
        dimension: D.
    """

    name: str
    fingerprint: str
    dimension: int

    @property
    def key(self) -> str:
        """What its rows are filed under: equal keys, equal rows."""
        return f"{self.name}/{self.fingerprint}"

    @abstractmethod
    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] on any device and their prompts to rows (B, D), float32.

        No gradient. A row depends on its own image and prompt alone.

        Raises:
            WorkbenchError: a prompt or an image that this extractor cannot judge.
        """

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that it could not judge an image by, before anything is drawn for them.

        Raises:
            RequestError: names the first of them. Most extractors refuse none.
        """


def weights_hash(module: nn.Module) -> str:
    """Short hash of every tensor of a module with its name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
