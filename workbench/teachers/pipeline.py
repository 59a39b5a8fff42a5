"""A diffusers pipeline as a teacher, and its text encoders alone."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.teachers.analytic import check_not_analytic
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.chunks import chunk_memory, decode_batch_size
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.folder import (
    MODEL_INDEX,
    TeacherNotes,
    check_folder,
    content_fingerprint,
    family_of,
    quiet_libraries,
    stored_keys,
    stored_numbers,
)
from workbench.teachers.weights import WeightFiles, empty_transformer

ENCODE_BATCH = 64
"""Prompts of one call of the text encoders: kernels, and so bits, depend on the shape."""

_FULL_PRECISION = ("F32", "F64")  # as safetensors names them

TextPrecision = bool | torch.dtype
"""Whether text encoders are loaded, or in which precision instead of that of their files."""

_WEIGHT_FILES = "*.safetensors"
_TRANSFORMER = "transformer"


class PromptEncoder:
    """Text encoders as the stock pipeline uses them.

    Attributes:
        name: what the teacher was asked for as.
        pipeline: a diffusers pipeline that has at least the family's ``text_components``.
        call_arguments: of the stock call, at least the family's ``encoding_arguments``.
    """

    def __init__(
        self, name: str, pipeline: Any, family: Family, call_arguments: CallArguments
    ) -> None:
        self.name, self.pipeline, self.family = name, pipeline, family
        self.call_arguments = call_arguments
        for component in pipeline.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)

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

    def truncated_prompts(self, prompts: Sequence[str]) -> list[int]:
        """Which prompts are too long for the encoders, which drop their ends."""
        self._need_text_encoders()
        with quiet_libraries():  # tokenizers warn of each long text
            return self.family.truncated_prompts(self.pipeline, prompts, self.call_arguments)

    def release_text_encoders(self) -> None:
        """Free the memory of tokenizers and text encoders; nothing can be encoded afterwards."""
        self.pipeline.register_modules(**dict.fromkeys(self.family.text_components))
        free_memory()

    def _need_text_encoders(self) -> None:
        if all(getattr(self.pipeline, name) is None for name in self.family.text_components):
            raise WorkbenchError(
                f"The text encoders of {self.name} are not loaded or have been freed: encode every "
                "prompt before, or load the teacher with text=True."
            )


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
    check_not_analytic(name, folder)
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


def load_prompt_encoder(
    name: str, folder: Path, device: torch.device | str = "cpu", call: CallArguments | None = None
) -> PromptEncoder:
    """The text encoders in a teacher's folder, each as :func:`text_precisions` says, alone.

    Args:
        call: arguments of the stock call, over those stored with the teacher.

    Raises:
        RequestError: a file of any component is missing or damaged, or the folder holds no
            supported pipeline.
    """
    family = check_folder(folder)
    others = [part for part in family.components if part not in family.text_components]
    pipeline = open_pipeline(folder, family, text_precisions(folder), others).to(device)
    return PromptEncoder(name, pipeline, family, encoding_call(folder, call))


def encoding_call(folder: Path, call: CallArguments | None = None) -> CallArguments:
    """The arguments of a teacher's call that decide its encodings."""
    family = family_of(folder / MODEL_INDEX)
    stored = {**family.stock_arguments(), **TeacherNotes.load(folder).call, **(call or {})}
    return {name: stored[name] for name in family.encoding_arguments}


def text_precisions(folder: Path) -> dict[str, torch.dtype]:
    """The precision that each text encoder of a folder is loaded in, by its component's name.

    float32 where most of its files' numbers are float32, else bfloat16, also for float16, which
    T5's activations overflow. Encodings stay in what encoders of these precisions give together:
    a tensor that joins a float32 and a bfloat16 encoder's outputs is float32.
    """
    family = family_of(folder / MODEL_INDEX)
    precisions = {}
    for name in family.text_components:
        numbers = stored_numbers(folder / name)
        if numbers:
            full = sum(numbers[kind] for kind in _FULL_PRECISION)
            precisions[name] = torch.float32 if 2 * full > numbers.total() else torch.bfloat16
    return precisions


def open_pipeline(
    folder: Path,
    family: Family,
    precisions: Mapping[str, torch.dtype],
    left_out: Sequence[str],
    given: Mapping[str, Any] | None = None,
) -> Any:
    """The diffusers pipeline in a checked folder, on the CPU, with None for what is left out.

    Args:
        precisions: by component; ``default`` is for all others.
        given: components that are taken as they are instead of being loaded.

    Raises:
        RequestError: diffusers cannot load it.
    """
    absent = {**dict.fromkeys(left_out), **(given or {})}
    with quiet_libraries():
        try:
            pipeline = family.pipeline_type().from_pretrained(
                folder,
                dtype=dict(precisions),
                use_safetensors=True,
                local_files_only=True,
                **absent,
            )
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise RequestError(f"Cannot load the teacher in {folder}: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def free_memory() -> None:
    """Free unreferenced memory, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
