"""A diffusers pipeline as a teacher."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.analytic import refuse_analytic
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.chunks import chunk_memory, decode_batch_size
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.folder import (
    TeacherNotes,
    check_folder,
    content_fingerprint,
    quiet_libraries,
    stored_keys,
)

ENCODE_BATCH = 64
"""Prompts of one call of the text encoders: kernels, and so bits, depend on the shape."""

_WEIGHT_FILES = "*.safetensors"


class PipelineTeacher:
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
        self.name, self.pipeline, self.family, self.folder = name, pipeline, family, folder
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
        stored = {**TeacherNotes.load(folder).call, **(call or {})}
        self.call_arguments = family.call_arguments(pipeline, stored)
        self.resolution: int = self.call_arguments["height"]
        self.network: VelocityNetwork = family.network(pipeline, self.call_arguments)
        self.latent_shape: tuple[int, ...] = family.latent_shape(pipeline, self.call_arguments)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        """eps - x_0, float32 (B, *latent_shape), from x_t of that shape and t (B,) in [0, 1]."""
        velocity: Tensor = self.network(x_t, t, cond)
        return velocity

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts to conditioning rows, in order, as the stock pipeline encodes them."""
        if not prompts:
            raise ValueError("encode needs at least one prompt")
        self._need_text_encoders()
        parts = [
            self.family.encode(self.pipeline, prompts[i : i + ENCODE_BATCH], self.call_arguments)
            for i in range(0, len(prompts), ENCODE_BATCH)
        ]
        return Conditioning.cat(parts)

    @torch.no_grad()
    def uncond(self) -> Conditioning:
        """The empty prompt, one row."""
        self._need_text_encoders()
        return self.family.uncond(self.pipeline, self.call_arguments)

    def cut_prompts(self, prompts: Sequence[str]) -> list[int]:
        """Which prompts are too long for the encoders, which drop their ends."""
        self._need_text_encoders()
        with quiet_libraries():  # tokenizers warn of each long text
            return self.family.cut_prompts(self.pipeline, prompts, self.call_arguments)

    def release_text_encoders(self) -> None:
        """Free the memory of tokenizers and text encoders; nothing can be encoded afterwards."""
        self.pipeline.register_modules(**dict.fromkeys(self.family.text_components))
        _collect()

    def release_network(self) -> None:
        """Free the memory of the network's weights, once others hold what they need of them."""
        self.network.to("meta")
        _collect()

    def _need_text_encoders(self) -> None:
        if all(getattr(self.pipeline, name) is None for name in self.family.text_components):
            raise WorkbenchError(
                f"The text encoders of {self.name} are not loaded or have been freed: encode every "
                "prompt before, or load the teacher with text=True."
            )

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
    text: bool = True,
) -> PipelineTeacher:
    """The teacher in a folder that ``save_pretrained`` wrote.

    Args:
        call: arguments of the stock call, over those stored with the teacher (a height, say).
        text: False leaves out the text encoders, where every encoding is stored already.

    Raises:
        RequestError: a file is missing or damaged, the folder holds no pipeline or one whose class
            is not supported, or images of the asked-for size are impossible.
    """
    refuse_analytic(name, folder)
    family = check_folder(folder)
    prepare_torchvision()
    left_out = {} if text else dict.fromkeys(family.text_components)
    with quiet_libraries():
        try:
            pipeline = family.pipeline_type().from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, **left_out
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"Cannot load the teacher in {folder}: {reason}") from error
        _check_complete(pipeline.transformer, folder / "transformer")
        pipeline = pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    return PipelineTeacher(name, pipeline, family, folder, call)


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _check_complete(module: Any, component: Path) -> None:
    """Weights that a file lacks would silently be random."""
    stored = set[str]().union(*(stored_keys(file) for file in component.glob(_WEIGHT_FILES)))
    absent = sorted(set(module.state_dict()) - stored)
    if absent:
        raise RequestError(
            f"The weights in {component} lack {len(absent)} tensors, first {absent[0]!r}."
        )
