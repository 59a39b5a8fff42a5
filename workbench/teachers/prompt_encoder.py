"""A pipeline's tokenizers and text encoders: prompts to conditioning, without the rest of it."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from workbench.errors import RequestError, WorkbenchError
from workbench.teachers.base import Conditioning
from workbench.teachers.family import CallArguments, Family
from workbench.teachers.folder import (
    MODEL_INDEX,
    TeacherNotes,
    check_folder,
    family_of,
    quiet_libraries,
    stored_numbers,
)

ENCODE_BATCH = 64
"""Prompts of one call of the text encoders: kernels, and so bits, depend on the shape."""

_FULL_PRECISION = ("F32", "F64")  # as safetensors names them


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

    def cut_prompts(self, prompts: Sequence[str]) -> list[int]:
        """Which prompts are too long for the encoders, which drop their ends."""
        self._need_text_encoders()
        with quiet_libraries():  # tokenizers warn of each long text
            return self.family.cut_prompts(self.pipeline, prompts, self.call_arguments)

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
    """What of the arguments of a teacher's call decides its encodings."""
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
    """Give back what nothing refers to any more, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
