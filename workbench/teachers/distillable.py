"""What a run needs of its teacher, whatever it draws: a pipeline or a closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor

from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import Weights


class Distillable(Protocol):
    """A frozen teacher that a run can distil, and whose samples it can score.

    Attributes:
        name: what it was asked for as.
        folder: what it was loaded from.
        network: the velocity.
        start: the network that student and fake score start at, where that is not the teacher's
            own, which has no weights to start from.
        latent_shape: of one sample.
    """

    name: str
    folder: Path
    network: VelocityNetwork
    start: VelocityNetwork | None
    latent_shape: tuple[int, ...]

    @property
    def weights(self) -> Weights | None:
        """Where those of a network without any in memory are; None for a closed form."""
        ...

    @property
    def resolution(self) -> int | None:
        """Height and width of its images in pixels; None for points."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hash of all that it was loaded from."""
        ...

    def uncond(self) -> Conditioning | None:
        """The empty prompt, one row; None for a teacher without prompts."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to what is scored: images (B, 3, H, W) in [0, 1], say."""
        ...

    def release_network(self) -> None:
        """Free the network's memory, once others hold what they need of it."""
        ...


def starting_network(teacher: Distillable) -> VelocityNetwork:
    """Where every trained role starts."""
    return teacher.start if teacher.start is not None else teacher.network
