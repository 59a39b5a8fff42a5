"""A diffusers pipeline as a teacher."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers.analytic import refuse_analytic
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.chunks import chunk_memory, decode_batch_size
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.folder import (
    TeacherNotes,
    check_folder,
    content_fingerprint,
    stored_keys,
)
from workbench.teachers.prompt_encoder import (
    PromptEncoder,
    free_memory,
    open_pipeline,
    text_precisions,
)
from workbench.teachers.weights import WeightFiles, empty_transformer

TextPrecision = bool | torch.dtype
"""Whether text encoders are loaded, or in which precision instead of that of their files."""

_WEIGHT_FILES = "*.safetensors"
_TRANSFORMER = "transformer"


class PipelineTeacher(PromptEncoder):
    """A frozen text-to-image pipeline whose transformer is a rectified-flow velocity.

    ``copy.deepcopy(teacher.network)`` makes a student or a fake score.

    Attributes:
        name: what it was asked for as.
        pipeline: the diffusers pipeline itself.
        network: its transformer, frozen.
        call_arguments: with these the stock pipeline's call behaves as this teacher does.
        latent_shape: of one sample.
        resolution: height and width of its images in pixels.
        start: students start at the network itself.
    """

    start: VelocityNetwork | None = None

    def __init__(
        self,
        name: str,
        pipeline: Any,
        family: Family,
        folder: Path,
        call: CallArguments | None = None,
    ) -> None:
        stored = {**TeacherNotes.load(folder).call, **(call or {})}
        super().__init__(name, pipeline, family, family.call_arguments(pipeline, stored))
        self.folder = folder
        self.resolution: int = self.call_arguments["height"]
        self.network: VelocityNetwork = family.network(pipeline, self.call_arguments)
        self.latent_shape: tuple[int, ...] = family.latent_shape(pipeline, self.call_arguments)

    @cached_property
    def weights(self) -> WeightFiles:
        """Those of the network, where they are stored."""
        return WeightFiles(self.folder / _TRANSFORMER)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        """eps - x_0, float32 (B, *latent_shape), from x_t of that shape and t (B,) in [0, 1]."""
        velocity: Tensor = self.network(x_t, t, cond)
        return velocity

    def release_network(self) -> None:
        """Free the memory of the network's weights, once others hold what they need of them."""
        self.network.to("meta")
        free_memory()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, *latent_shape) to images, float32 (B, 3, H, W) in [0, 1].

        Decoded in parts that the device has room for: a decoder's activations are forty times as
        large as its images.
        """
        together = decode_batch_size(chunk_memory(latents.device), self.resolution)
        parts = torch.split(latents, together)
        return torch.cat([self.family.decode(self.pipeline, part) for part in parts])

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to latents, float32 (B, *latent_shape)."""
        return self.family.encode_images(self.pipeline, images)

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def pixels_per_patch(self) -> int:
        """Pixels that one token of the network covers, along a side."""
        return self.family.pixels_per_patch(self.pipeline)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of the files it was loaded from, weights included."""
        return content_fingerprint(self.folder, self.family.components)


def load_pipeline_teacher(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    call: CallArguments | None = None,
    text: TextPrecision = True,
    weights: bool = True,
) -> PipelineTeacher:
    """The teacher in a folder that ``save_pretrained`` wrote.

    Args:
        call: arguments of the stock call, over those stored with the teacher (a height, say).
        text: True loads the text encoders as :func:`text_precisions` says; False leaves them out,
            where every encoding is stored already; a precision loads them in that one, as a stock
            pipeline's own call with prompts needs it, whose parts must agree.
        weights: False leaves the network's in their files (:attr:`PipelineTeacher.weights`), for
            whoever fills networks with them shard by shard.

    Raises:
        RequestError: a file is missing or damaged, the folder holds no pipeline or one whose class
            is not supported, or images of the asked-for size are impossible.
    """
    refuse_analytic(name, folder)
    family = check_folder(folder)
    own = text_precisions(folder) if text is True else {}
    if isinstance(text, torch.dtype):
        own = dict.fromkeys(family.text_components, text)
    left_out = () if text else family.text_components
    component = folder / _TRANSFORMER
    given = {} if weights else {_TRANSFORMER: empty_transformer(component)}
    pipeline = open_pipeline(folder, family, {"default": dtype, **own}, left_out, given)
    _check_complete(pipeline.transformer, component)
    for part_name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module) and part_name not in given:
            part.to(device)
    return PipelineTeacher(name, pipeline, family, folder, call)


def _check_complete(module: Any, component: Path) -> None:
    """Weights that a file lacks would silently be random."""
    stored = set[str]().union(*(stored_keys(file) for file in component.glob(_WEIGHT_FILES)))
    absent = sorted(set(module.state_dict()) - stored)
    if absent:
        raise RequestError(
            f"The weights in {component} lack {len(absent)} tensors, first {absent[0]!r}."
        )
