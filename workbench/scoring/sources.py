"""What can be evaluated: a run's student or a teacher, a stock pipeline, a folder of images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from workbench.data.images import list_images
from workbench.errors import RequestError
from workbench.evaluation import Sampler
from workbench.evaluation.images import check_equal_sizes, read_images
from workbench.hashing import file_fingerprint
from workbench.scoring.pipelines import PipelineSource, class_name
from workbench.students.measure import EncodedPrompts, Encodings, Samplers
from workbench.students.models import LoadedModel, LoadedStudent, load_model
from workbench.teachers import PipelineTeacher, find_teacher, teacher_call
from workbench.teachers.base import Conditioning
from workbench.teachers.families import FAMILIES
from workbench.teachers.folder import MODEL_INDEX
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.recipes import find_foundation, run_config
from workbench.training.run_folder import RunFolder
from workbench.workspace import Workspace

_ENCODED_AT_ONCE = 512  # distinct prompts that are kept encoded in memory
IMAGES_AT_ONCE = 250
_FROM_IMAGES = 1  # "steps" of what is read, not drawn


@dataclass(frozen=True)
class Asked:
    """What a person asks of a source; ``call`` are further arguments of a stock pipeline.

    ``seeds`` are evaluation seeds: None = the source's own.
    """

    reference: str
    seeds: tuple[int, ...] | None = None
    cfg_scale: float = 1.0
    stock: bool = False
    call: Mapping[str, Any] | None = None
    precision: str | None = None


def own_settings(reference: str, model: LoadedModel | None = None) -> EvaluationConfig | None:
    """How a model is measured unless told: as its run was, or as its teacher's recipe says."""
    if isinstance(model, LoadedStudent):
        return model.config.drawn_evaluation
    foundation = find_foundation(teacher=reference)
    return run_config(f"teacher={reference}").evaluation if foundation.own else None


class Source(Protocol):
    """Something with samples to score.

    Attributes:
        name: for people and files.
        default_steps: the step counts unless told; None where steps do not apply.
        run: the run that its scores belong to and the images that it was trained on; or None.
        settings: how it is measured unless told; None where nothing says so.
    """

    name: str

    @property
    def settings(self) -> EvaluationConfig | None: ...

    @property
    def precision(self) -> str:
        """Of the networks that draw."""
        ...

    @property
    def seed(self) -> int:
        """Of the noise; 0 for what is not drawn."""
        ...

    def at_seed(self, seed: int) -> Source:
        """The same on another noise."""
        ...

    @property
    def default_steps(self) -> tuple[int, ...] | None: ...

    @property
    def run(self) -> tuple[RunFolder, int] | None: ...

    def kind(self) -> str:
        """student, teacher, pipeline or images."""
        ...

    def how(self, steps: int) -> str:
        """The sampler in words: schedule, shift, guidance; empty for what is not drawn."""
        ...

    def batch_size(self, device: torch.device) -> int:
        """Samples at once unless told."""
        ...

    def count(self) -> int | None:
        """How many samples there are; None: any number."""
        ...

    def identity(self, steps: int) -> dict[str, object]:
        """What decides image i for its prompt."""
        ...

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        """Draws the samples of these prompts.

        Raises:
            RequestError: a number of steps that it cannot take.
        """
        ...


def open_source(workspace: Workspace, asked: Asked, device: torch.device) -> Source:
    """What a reference means: images if it is a folder of them, a pipeline of another class than
    a teacher's (or with ``stock``), else a run, an exported student or a teacher.

    Raises:
        RequestError: nothing of that name (names the nearest), or an option that does not apply.
    """
    folder = Path(asked.reference).expanduser()
    is_pipeline = (folder / MODEL_INDEX).is_file()
    if folder.is_dir() and not is_pipeline and not (folder / "config.json").is_file():
        drawn = (asked.stock, asked.call, asked.cfg_scale != 1.0, asked.seeds, asked.precision)
        if any(drawn):
            raise RequestError(
                f"{folder} holds images: --stock and --call are of pipelines, --cfg-scale of "
                "teachers, --seed and --precision of what is drawn."
            )
        return ImageSource(folder)
    if asked.stock and not is_pipeline:
        folder = find_teacher(asked.reference, workspace.teachers)
        is_pipeline = (folder / MODEL_INDEX).is_file()
        if not is_pipeline:
            raise RequestError(f"--stock needs a pipeline; {folder} has no {MODEL_INDEX}.")
    if is_pipeline and (asked.stock or class_name(folder) not in FAMILIES):
        if asked.cfg_scale != 1.0:
            raise RequestError(
                "--cfg-scale is of teachers; a stock pipeline's own guidance is "
                f"--call guidance_scale={asked.cfg_scale:g}."
            )
        if asked.precision not in (None, "fp32"):
            raise RequestError("--precision is of runs and teachers: a stock pipeline is as it is.")
        call = {**teacher_call(asked.reference), **(asked.call or {})}
        return PipelineSource(folder, _first(asked), call, device, own_settings(asked.reference))
    if asked.call:
        raise RequestError("--call is of stock pipelines: add --stock.")
    return ModelSource(workspace, load_model(workspace, asked.reference, device), asked, device)


def _first(asked: Asked, own: EvaluationConfig | None = None) -> int:
    if asked.seeds:
        return asked.seeds[0]
    return (own and own.seed) or 0


class ModelSource:
    """A run's student, an exported one, or a teacher, on noise addressed by sample.

    ``elsewhere`` is the folder of a run of another workspace; None of all else.
    """

    def __init__(
        self, workspace: Workspace, model: LoadedModel, asked: Asked, device: torch.device
    ) -> None:
        self.model, self._device = model, device
        own = model.run if isinstance(model, LoadedStudent) else None
        runs = workspace.runs.resolve()
        self.elsewhere = own.path if own and not own.path.resolve().is_relative_to(runs) else None
        # Two workspaces may have runs of one name: their scores must not be kept as one's.
        self.name = model.name if self.elsewhere is None else str(self.elsewhere)
        self.settings = own_settings(asked.reference, model)
        told = self.settings.precision if self.settings else model.precision
        self._drawing = EvaluationConfig.model_validate(
            {
                "seed": _first(asked, self.settings),
                "cfg_scale": asked.cfg_scale,
                "precision": asked.precision or told,
                "batch_size": self.settings.batch_size if self.settings else "auto",
            }
        )
        self._samplers = Samplers(model.teacher, self._drawing, device)
        self._drawn = model.in_precision(self._drawing.precision)
        self._encoded: dict[tuple[str, ...], Encodings] = {}

    def at_seed(self, seed: int) -> Self:
        """The same on another noise; models and encodings are shared."""
        other = copy.copy(self)
        other._drawing = self._drawing.at_seed(seed)
        other._samplers = self._samplers.at_seed(seed)
        return other

    @property
    def seed(self) -> int:
        return self._samplers.seed

    @property
    def default_steps(self) -> tuple[int, ...]:
        return self.model.default_steps

    @cached_property
    def run(self) -> tuple[RunFolder, int] | None:
        """None for a run of another workspace: its scores belong into that one's lab book."""
        model = self.model
        if self.elsewhere or not isinstance(model, LoadedStudent) or model.run is None:
            return None
        return model.run, model.nimg

    def kind(self) -> str:
        return "student" if isinstance(self.model, LoadedStudent) else "teacher"

    def count(self) -> int | None:
        return None

    @property
    def precision(self) -> str:
        return self._drawing.precision

    def how(self, steps: int) -> str:
        return self._drawn.at(steps, self._samplers).how

    def batch_size(self, device: torch.device) -> int:
        return self._samplers.batch_size

    def identity(self, steps: int) -> dict[str, object]:
        settings = self._drawing
        drawn = {} if settings.precision == "fp32" else {"precision": settings.precision}
        return {
            **drawn,
            "kind": self.kind(),
            "weights": self.model.weights,
            "pipeline": self.model.taught_by.fingerprint,
            "noise": self.model.noise,
            "cfg_scale": settings.cfg_scale,
            "flow_shift": settings.teacher_flow_shift,
            "resolution": self.model.teacher.resolution,
            "steps": steps,
            "seed": settings.seed,
            "device": self._device.type,
        }

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        sampled = self._drawn.at(steps, self._samplers)
        encoded = self._encodings(tuple(prompts))

        def prepare(batch: list[str]) -> None:
            encoded.rows(batch)

        def draw(batch: list[str], start: int, count: int) -> Tensor:
            return self._samplers.images(sampled, encoded.rows(batch), start, count)

        return Sampler(draw, steps, sampled.nfe, prepare)

    def _encodings(self, prompts: tuple[str, ...]) -> Encodings:
        if prompts not in self._encoded:
            few = len(set(prompts)) <= _ENCODED_AT_ONCE
            teacher = self.model.teacher
            self._encoded.clear()  # in place: the same model on other noise shares it
            self._encoded[prompts] = (
                EncodedPrompts(teacher, prompts) if few else _LastBatch(teacher)
            )
        return self._encoded[prompts]


class _LastBatch:
    """Encodes batch by batch and remembers the last: thousands of prompts fill no memory."""

    def __init__(self, teacher: PipelineTeacher) -> None:
        self._teacher = teacher
        self._last: EncodedPrompts | None = None

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        if self._last is None or not set(prompts) <= set(self._last.index):
            self._last = EncodedPrompts(self._teacher, prompts)
        return self._last.rows(prompts)


class ImageSource:
    """Image files, one a sample, in sorted order."""

    run = None
    default_steps = None
    settings = None
    precision = "fp32"
    seed = 0

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self._files = list_images(folder)
        check_equal_sizes(self._files)

    def kind(self) -> str:
        return "images"

    def how(self, steps: int) -> str:
        return ""

    def batch_size(self, device: torch.device) -> int:
        return IMAGES_AT_ONCE

    def at_seed(self, seed: int) -> ImageSource:
        return self  # nothing is drawn

    def count(self) -> int | None:
        return len(self._files)

    def identity(self, steps: int) -> dict[str, object]:
        return {"kind": self.kind(), "files": self._hash}

    @cached_property
    def _hash(self) -> str:
        return file_fingerprint(self._files)

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        def draw(batch: list[str], start: int, count: int) -> Tensor:
            return read_images(self._files[start : start + count])

        return Sampler(draw, _FROM_IMAGES, 0.0)
