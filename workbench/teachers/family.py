"""What a family of diffusers pipelines must say about itself to be a teacher."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from workbench.teachers.base import Conditioning, VelocityNetwork

CallArguments = Mapping[str, Any]
"""Arguments of the stock pipeline's call with which it behaves as the teacher does."""


class Family(ABC):
    """Adapts one pipeline class. One instance serves all its pipelines and holds no state.

    ``pipeline`` is a loaded diffusers pipeline of the class :attr:`pipeline_class`, untyped
    because diffusers is not imported here. ``arguments`` are its call's defaults, overridden by
    those stored with the teacher.
    """

    pipeline_class: str
    components: tuple[str, ...]

    def pipeline_type(self) -> Any:
        """The diffusers class."""
        import diffusers

        return getattr(diffusers, self.pipeline_class)

    def call_arguments(self, pipeline: Any, stored: CallArguments) -> CallArguments:
        """The stock call's own defaults, overridden by what is stored with a teacher."""
        signature = inspect.signature(type(pipeline).__call__).parameters.values()
        defaults = {p.name: p.default for p in signature if p.default is not p.empty}
        return {**defaults, **stored}

    @abstractmethod
    def network(self, pipeline: Any) -> VelocityNetwork:
        """The pipeline's transformer as a rectified-flow velocity."""

    @abstractmethod
    def latent_shape(self, pipeline: Any) -> tuple[int, ...]:
        """Shape of one sample's latents at the teacher's own resolution."""

    @abstractmethod
    def resolution(self, pipeline: Any) -> int:
        """Height and width of its images in pixels."""

    @abstractmethod
    def encode(
        self, pipeline: Any, prompts: Sequence[str], arguments: CallArguments
    ) -> Conditioning:
        """Prompts as the stock pipeline encodes them."""

    @abstractmethod
    def uncond(self, pipeline: Any, arguments: CallArguments) -> Conditioning:
        """One row: the empty prompt, as the stock pipeline encodes its negative prompt."""

    @abstractmethod
    def decode(self, pipeline: Any, latents: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to float32 images (B, 3, H, W) in [0, 1]."""

    @abstractmethod
    def encode_images(self, pipeline: Any, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to latents (B, *latent_shape)."""
