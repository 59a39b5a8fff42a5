"""A stock diffusers pipeline as something to score."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation import Sampler
from workbench.students.student import StudentRecord
from workbench.teachers.folder import (
    MODEL_INDEX,
    TeacherNotes,
    content_fingerprint,
    quiet_libraries,
)
from workbench.teachers.json_file import read_json
from workbench.teachers.student_pipeline import STUDENT_RECORD, is_student, student_entry
from workbench.training.evaluation_config import EvaluationConfig

_AT_ONCE = 250
_OURS = ("prompt", "num_inference_steps", "generator", "output_type")
"""Arguments of the call that every image here needs, and that are given here."""


_APART = 10**9
"""Between the noise of two evaluation seeds."""


class PipelineSource:
    """Any diffusers text-to-image pipeline, by its own call: its scheduler, guidance and noise.

    Image i is drawn with ``torch.Generator().manual_seed(10^9 seed + i)``, so that a batch's size
    cannot change an image whose scheduler draws from the generator that it is given, and that two
    evaluation seeds share no noise.

    Args:
        call: further arguments of the pipeline's call.
        settings: how it is measured unless told.

    Raises:
        RequestError: it cannot be loaded, is no pipeline from text to images, or takes no such
            argument; a student is asked for another number of steps than its own.
    """

    run = None
    precision = "fp32"

    def __init__(
        self,
        folder: Path,
        seed: int,
        call: Mapping[str, Any] | None,
        device: torch.device,
        settings: EvaluationConfig | None = None,
    ) -> None:
        self.settings = settings
        self.name = folder.resolve().name
        self._folder, self.seed, self._device = folder, seed, device
        self._pipeline = _load(folder, device)
        self._network = _network_of(self._pipeline)
        parameters = inspect.signature(self._pipeline.__call__).parameters
        stored = _stored_call(folder)
        self._only_steps = stored.get("num_inference_steps") if is_student(folder) else None
        self._call = {**stored, **(call or {})}
        own_steps = self._call.pop("num_inference_steps", None)
        taken = [key for key in self._call if key in _OURS]
        if taken:
            raise RequestError(f"--call {taken[0]}: that argument is given by evaluate itself.")
        unknown = [key for key in (*self._call, *_OURS) if key not in parameters]
        if unknown:
            raise RequestError(
                f"{type(self._pipeline).__name__} takes no {unknown[0]!r}; it takes "
                f"{', '.join(parameters)}."
            )
        self._default_guidance = parameters["guidance_scale"].default
        self._default = own_steps or parameters["num_inference_steps"].default
        self._check_steps(self._default)

    def _check_steps(self, steps: int) -> None:
        if self._only_steps not in (None, steps):
            raise RequestError(
                f"The stock class draws {self.name} at its trained times only with its own "
                f"{self._only_steps} steps, not with {steps}: leave out --stock for others."
            )

    @property
    def default_steps(self) -> tuple[int, ...]:
        return (int(self._default),)

    def at_seed(self, seed: int) -> Self:
        """The same on another noise; the pipeline is shared."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def kind(self) -> str:
        return "pipeline"

    def how(self, steps: int) -> str:
        scheduler = self._pipeline.scheduler
        shift = scheduler.config.get("shift", scheduler.config.get("flow_shift"))
        told = "" if shift is None else f", shift {shift:g}"
        guidance = self._call.get("guidance_scale", self._default_guidance)
        return f"{type(scheduler).__name__}{told}, guidance_scale {guidance}"

    def batch_size(self, device: torch.device) -> int:
        return 1 if device.type == "cuda" else _AT_ONCE

    def count(self) -> int | None:
        return None

    def identity(self, steps: int) -> dict[str, object]:
        return {
            "kind": self.kind(),
            "weights": self._weights,
            "call": self._call,
            "steps": steps,
            "seed": self.seed,
            **({"apart": _APART} if self.seed else {}),  # images of before were otherwise drawn
            "device": self._device.type,
        }

    @cached_property
    def _weights(self) -> str:
        return content_fingerprint(self._folder, tuple(sorted(self._pipeline.components)))

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        self._check_steps(steps)
        spent = 0.0

        def draw(batch: list[str], start: int, count: int) -> Tensor:
            nonlocal spent
            counter = _Counter()
            hook = self._network.register_forward_pre_hook(counter, with_kwargs=True)
            try:
                images = self._images(batch, start, steps)
            finally:
                hook.remove()
            spent = counter.rows / count
            return images

        return Sampler(draw, steps, lambda: spent)

    @torch.no_grad()
    def _images(self, prompts: Sequence[str], start: int, steps: int) -> Tensor:
        first = self.seed * _APART + start
        seeds = range(first, first + len(prompts))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        try:
            with quiet_libraries():
                output = self._pipeline(
                    prompt=list(prompts),
                    num_inference_steps=steps,
                    generator=generators,
                    output_type="pt",
                    **self._call,
                )
        except (TypeError, ValueError) as error:  # how diffusers refuses an argument's value
            reason = " ".join(str(error).split())[:300]
            raise RequestError(f"{self.name} cannot draw with {self._call}: {reason}") from error
        images: Tensor = output.images.float()
        return images.clamp(0, 1)


class _Counter:
    """A hook before a network's forward that counts the rows it is given."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, module: Any, arguments: Any, keywords: Any) -> None:
        tensors = (v for v in (*arguments, *keywords.values()) if isinstance(v, Tensor))
        self.rows += max((len(v) for v in tensors if v.ndim > 2), default=1)


def _network_of(pipeline: Any) -> torch.nn.Module:
    """What is evaluated in every step."""
    for name in ("transformer", "unet"):
        network = getattr(pipeline, name, None)
        if isinstance(network, torch.nn.Module):
            return network
    raise RequestError(
        f"{type(pipeline).__name__} has neither a transformer nor a unet: its network evaluations "
        "cannot be counted."
    )


def _stored_call(folder: Path) -> dict[str, Any]:
    """Arguments of the call that a teacher or an exported student keeps beside its weights."""
    if (folder / STUDENT_RECORD).is_file():
        return dict(StudentRecord.load(folder).call)
    if is_student(folder):
        return dict(student_entry(folder)["call"])
    return dict(TeacherNotes.load(folder).call)


def class_name(folder: Path) -> str:
    """The pipeline's class, as its folder names it."""
    return str(read_json(folder / MODEL_INDEX).get("_class_name"))


def _load(folder: Path, device: torch.device) -> Any:
    import diffusers

    name = class_name(folder)
    make: Callable[..., Any] | None = getattr(diffusers, name, None)
    if make is None:
        raise RequestError(f"{folder / MODEL_INDEX}: diffusers has no pipeline {name!r}.")
    try:
        with quiet_libraries():
            pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RequestError(f"{folder} cannot be loaded as {name}: {reason}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
