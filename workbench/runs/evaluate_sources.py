"""What can be evaluated: a run's student or a teacher, a stock pipeline, a folder of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation import Sampler
from workbench.evaluation.images import check_equal_sizes, hash_files, read_images
from workbench.runs.evaluate_pipeline import PipelineSource, class_name
from workbench.runs.folder import RunFolder
from workbench.runs.measure import EncodedPrompts, Encodings, Samplers
from workbench.runs.models import LoadedModel, LoadedStudent, load_model
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import Conditioning
from workbench.teachers.families import FAMILIES
from workbench.teachers.folder import MODEL_INDEX
from workbench.teachers.image_files import list_images
from workbench.training.config import EvaluationConfig
from workbench.workspace import Workspace

_ENCODED_AT_ONCE = 512  # distinct prompts that are kept encoded in memory
_FROM_IMAGES = 1  # "steps" of what is read, not drawn


@dataclass(frozen=True)
class Asked:
    """What a person asks of a source; ``call`` are further arguments of a stock pipeline."""

    reference: str
    seed: int = 0
    cfg_scale: float = 1.0
    stock: bool = False
    call: Mapping[str, Any] | None = None


class Source(Protocol):
    """Something with samples to score.

    Attributes:
        name: for people and files.
        default_steps: the step counts unless told; None where steps do not apply.
        run: the run that its scores belong to and the images that it was trained on; or None.
        precision: of the network that draws; part of the protocol.
    """

    name: str

    @property
    def precision(self) -> str: ...

    @property
    def default_steps(self) -> tuple[int, ...] | None: ...

    @property
    def run(self) -> tuple[RunFolder, int] | None: ...

    def kind(self) -> str:
        """student, teacher, pipeline or images."""
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
        if asked.stock or asked.call or asked.cfg_scale != 1.0 or asked.seed:
            raise RequestError(
                f"{folder} holds images: --stock and --call are of pipelines, --cfg-scale of "
                "teachers, --seed of what is drawn."
            )
        return ImageSource(folder)
    if asked.stock and not is_pipeline:
        raise RequestError(f"--stock needs a pipeline's folder; {folder} has no {MODEL_INDEX}.")
    if is_pipeline and (asked.stock or class_name(folder) not in FAMILIES):
        if asked.cfg_scale != 1.0:
            raise RequestError(
                "--cfg-scale is of teachers; a stock pipeline's own guidance is "
                f"--call guidance_scale={asked.cfg_scale:g}."
            )
        return PipelineSource(folder, asked.seed, asked.call, device)
    if asked.call:
        raise RequestError("--call is of stock pipelines: add --stock.")
    return ModelSource(workspace, load_model(workspace, asked.reference, device), asked, device)


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
        self.precision = model.precision
        self.settings = EvaluationConfig(
            seed=asked.seed, cfg_scale=asked.cfg_scale, precision=self.precision
        )
        self._samplers = Samplers(model.teacher, self.settings, device)
        self._encoded: dict[tuple[str, ...], Encodings] = {}

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

    def identity(self, steps: int) -> dict[str, object]:
        settings = self.settings
        own = {} if self.precision == "fp32" else {"precision": self.precision}
        return {
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
            **own,
        }

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        sampled = self.model.at(steps, self._samplers)
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
            self._encoded = {
                prompts: EncodedPrompts(teacher, prompts) if few else _LastBatch(teacher)
            }
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
    precision = "fp32"

    def __init__(self, folder: Path) -> None:
        self.name = folder.resolve().name
        self._files = list_images(folder)
        check_equal_sizes(self._files)

    def kind(self) -> str:
        return "images"

    def count(self) -> int | None:
        return len(self._files)

    def identity(self, steps: int) -> dict[str, object]:
        return {"kind": self.kind(), "files": self._hash}

    @cached_property
    def _hash(self) -> str:
        return hash_files(self._files)

    def sampler(self, steps: int, prompts: Sequence[str]) -> Sampler:
        def draw(batch: list[str], start: int, count: int) -> Tensor:
            return read_images(self._files[start : start + count])

        return Sampler(draw, _FROM_IMAGES, 0.0)
