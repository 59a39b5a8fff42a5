"""What can be sampled and scored: a run's student, an exported one, a teacher."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import nn

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.methods import NOISE_RULES, method_type
from workbench.students.measure import SampledModel, Samplers
from workbench.students.student import (
    StudentRecord,
    TeacherReference,
    weights_fingerprint,
)
from workbench.students.text import find_run_teacher, load_run_teacher
from workbench.teachers import KNOWN_TEACHERS, PipelineTeacher, load_pipeline_teacher, load_teacher
from workbench.teachers.base import Distillable, starting_network
from workbench.teachers.hub import revision_of
from workbench.teachers.pipeline import TextPrecision
from workbench.teachers.student_pipeline import is_student
from workbench.training.checkpoint import (
    average_at,
    checkpoint_path,
    damage,
    kept_averages,
    latest_checkpoint,
    load_modules,
    read_manifest,
)
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.networks import AVERAGE, sharded_root, student_network
from workbench.training.parallel import choose_device
from workbench.training.recipes import run_config
from workbench.training.run_folder import RunFolder, all_runs, find_run, matching_runs

if TYPE_CHECKING:
    from workbench.teachers.base import VelocityNetwork
    from workbench.training.config import RunConfig
    from workbench.workspace import Workspace

Precision = Literal["fp32", "bf16"]
"""What a network draws in."""

_AT_KIMG = re.compile(r"(?P<run>.+)@(?P<kimg>\d+(\.\d+)?)")


@dataclass(frozen=True)
class Drawing:
    """Which images: one for each prompt, image i from seed + i.

    ``noise`` replaces the student's own noise type; ``cfg_scale`` is a teacher's guidance.
    ``batch_size`` changes memory and speed alone. ``precision`` of the network: None = its own.
    """

    prompts: Sequence[str]
    steps: int
    seed: int = 0
    noise: str | None = None
    cfg_scale: float = 1.0
    batch_size: int = 8
    precision: Precision | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A teacher as something to sample.

    Attributes:
        name: of the run, folder or teacher.
        teacher: the pipeline that encodes and decodes; of an exported student, its own.
        network: what is sampled.
    """

    name: str
    teacher: PipelineTeacher
    network: VelocityNetwork

    @property
    def default_steps(self) -> tuple[int, ...]:
        """The step counts at which it is measured unless told."""
        return EvaluationConfig().teacher_steps

    @property
    def noise(self) -> str | None:
        """The student's own noise type; None for a teacher."""
        return None

    @property
    def precision(self) -> Precision:
        """What it draws in: a student as its run scored it, a teacher in fp32."""
        return "fp32"

    def in_precision(self, precision: str) -> Self:
        """The same, its network in bfloat16 where that is asked for: as it draws in its run.

        Buffers (positions) keep their type, as they do there.
        """
        if precision == "fp32" or next(self.network.parameters(), None) is None:
            return self
        halved: dict[int, Any] = {
            id(weight): nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False)
            for weight in sharded_root(self.network).parameters()
        }
        return replace(self, network=copy.deepcopy(self.network, halved))

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights that are sampled."""
        return weights_fingerprint(self.network.state_dict())

    @property
    def taught_by(self) -> TeacherReference:
        """The teacher: of a student, the one it was distilled from."""
        return TeacherReference(
            name=self.teacher.name,
            fingerprint=self.teacher.fingerprint,
            revision=revision_of(self.teacher.folder),
        )

    def facts(self, drawing: Drawing) -> dict[str, str]:
        """What of a drawing is this kind of model's own."""
        return {"cfg_scale": f"{drawing.cfg_scale:g}"}

    def at(self, steps: int, samplers: Samplers, noise: str | None = None) -> SampledModel:
        """The model with a number of steps and, for exploration, another noise type.

        Raises:
            RequestError: more generator steps than the student was trained with, fewer than it has
                of a method whose students are samples only at the end, an unknown noise type, or
                one for a teacher.
        """
        if noise is not None:
            raise RequestError(
                f"{self.name} is a teacher: its Euler steps have no noise type. Drop --noise."
            )
        return samplers.of_teacher(self.network, steps)


@dataclass(frozen=True)
class LoadedStudent(LoadedModel):
    """A few-step student.

    Attributes:
        config: of its run.
        nimg: images that it was trained on.
        record: of an exported one.
        run: the run whose newest, or asked-for, checkpoint it is.
    """

    config: RunConfig
    nimg: int
    record: StudentRecord | None = None
    run: RunFolder | None = None

    @property
    def default_steps(self) -> tuple[int, ...]:
        """All K."""
        return (self.config.generator.steps,)

    @property
    def noise(self) -> str | None:
        return self.config.generator.noise

    @property
    def precision(self) -> Precision:
        return self.config.evaluation.precision

    @property
    def taught_by(self) -> TeacherReference:
        return self.record.teacher if self.record else super().taught_by

    def facts(self, drawing: Drawing) -> dict[str, str]:
        own, wanted = self.config.generator.noise, drawing.noise
        precision = drawing.precision or self.precision
        return {
            "run": self.record.run if self.record else self.name,
            "kimg": f"{self.nimg / 1000:g}",
            "noise": own if wanted in (None, own) else f"{wanted} (trained with {own})",
            **({} if precision == "fp32" else {"precision": precision}),
        }

    def at(self, steps: int, samplers: Samplers, noise: str | None = None) -> SampledModel:
        generator = self.config.generator
        if steps > generator.steps:
            raise RequestError(
                f"{self.name} was trained with {generator.steps} steps, not with {steps}."
            )
        method = method_type(self.config.method)
        if steps < generator.steps and not method.partial_steps:
            raise RequestError(
                f"{self.name} is a student of method {self.config.method.name!r}, which makes "
                f"samples only after all its {generator.steps} steps, not after {steps}."
            )
        if samplers.settings.cfg_scale != 1.0:
            raise RequestError(
                f"{self.name} is a student: guidance was distilled into it. Drop --cfg-scale."
            )
        if noise is not None:
            NOISE_RULES.check(noise)
            if noise not in method.noise_types:
                raise RequestError(
                    f"{self.name} is a student of method {self.config.method.name!r}, which makes "
                    f"samples with noise {' or '.join(method.noise_types)}, not {noise}."
                )
            generator = generator.model_copy(update={"noise": noise})
        return samplers.of_student(self.network, generator, steps)


def shown_prompts(model: LoadedModel) -> tuple[str, ...]:
    """Prompts to show a model by: those of its run, else of its teacher's recipe.

    Raises:
        RequestError: neither has any.
    """
    if isinstance(model, LoadedStudent):
        shown = model.config.evaluation.shown
    else:
        shown = run_config(f"teacher={model.name}").evaluation.shown
    if not shown:
        raise RequestError(f"Nothing says what to draw with {model.name}: name --prompt TEXT.")
    return shown


def load_model(
    workspace: Workspace,
    reference: str,
    device: torch.device | None = None,
    text: bool = True,
) -> LoadedModel:
    """A run's averaged generator, an exported student, or a teacher.

    Args:
        reference: a run (its newest whole checkpoint, or ``RUN@KIMG``), a folder, a teacher.
        device: the GPU where there is one, unless told.
        text: whether the text encoders are needed.

    Raises:
        RequestError: nothing of that name (names the nearest), or no checkpoint at that kimg.
        WorkbenchError: the run has no whole checkpoint yet.
    """
    device = device or choose_device()
    student = _student(workspace, reference, device, text)
    if student is not None:
        return student
    is_folder = Path(reference).expanduser().is_dir()
    if reference not in KNOWN_TEACHERS and "/" not in reference and not is_folder:
        known = [*KNOWN_TEACHERS, *(run.name for run in all_runs(workspace))]
        raise unknown_name("run or teacher", reference, known)
    teacher = load_teacher(reference, workspace.teachers, device, text=text)
    return LoadedModel(reference, teacher, teacher.network)


def load_student(
    workspace: Workspace,
    reference: str,
    device: torch.device | None = None,
    text: TextPrecision = True,
) -> LoadedStudent:
    """As :func:`load_model` where only a run or an exported student will do.

    Args:
        text: as of :func:`load_pipeline_teacher`.

    Raises:
        RequestError: a teacher, or nothing of that name (names the nearest run).
        WorkbenchError: the run has no whole checkpoint yet.
    """
    student = _student(workspace, reference, device or choose_device(), text)
    if student is not None:
        return student
    if reference in KNOWN_TEACHERS or Path(reference).expanduser().is_dir():
        raise RequestError(
            f"{reference} is a teacher, not a student: name a run or an exported student's folder."
        )
    raise unknown_name("run", reference, (run.name for run in all_runs(workspace)))


def _student(
    workspace: Workspace, reference: str, device: torch.device, text: TextPrecision
) -> LoadedStudent | None:
    folder = Path(reference).expanduser()
    if is_student(folder):
        return _exported(reference, folder, device, text)
    at = _AT_KIMG.fullmatch(reference)
    name = at["run"] if at else reference
    if reference in KNOWN_TEACHERS or not matching_runs(workspace, name):
        return None
    return _of_run(workspace, *_run_at(workspace, reference), device, text)


def _exported(
    reference: str, folder: Path, device: torch.device, text: TextPrecision
) -> LoadedStudent:
    record = StudentRecord.load(folder)
    pipeline = load_pipeline_teacher(reference, folder, device, call=record.call, text=text)
    return LoadedStudent(reference, pipeline, pipeline.network, record.config, record.nimg, record)


def _of_run(
    workspace: Workspace,
    run: RunFolder,
    checkpoint: Path,
    device: torch.device,
    text: TextPrecision,
) -> LoadedStudent:
    config = run.config()
    folder = find_run_teacher(config, workspace, run.teacher_revision())
    teacher = load_run_teacher(config, folder, device, text)
    _check_same_teacher(run, checkpoint, teacher)
    network, nimg = _averaged(config, checkpoint, teacher)
    return LoadedStudent(run.name, teacher, network, config, nimg, run=run)


def _averaged(
    config: RunConfig, checkpoint: Path, teacher: Distillable
) -> tuple[VelocityNetwork, int]:
    """A run's averaged generator, and the images that it was trained on."""
    network = student_network(starting_network(teacher), config)
    load_modules(checkpoint, {AVERAGE: network})
    return network, int(read_manifest(checkpoint)["progress"]["nimg"])


@dataclass(frozen=True)
class RunGenerator:
    """The averaged generator of a run, without what decodes its samples."""

    run: RunFolder
    config: RunConfig
    network: VelocityNetwork
    nimg: int


def run_generator(workspace: Workspace, reference: str, teacher: Distillable) -> RunGenerator:
    """The generator of a run (``RUN`` or ``RUN@KIMG``) of this teacher.

    Raises:
        RequestError: no such run, no checkpoint at that kimg, or a run of another teacher.
        WorkbenchError: the run has no whole checkpoint yet.
    """
    run, checkpoint = _run_at(workspace, reference)
    config = run.config()
    _check_same_teacher(run, checkpoint, teacher)
    return RunGenerator(run, config, *_averaged(config, checkpoint, teacher))


def _run_at(workspace: Workspace, reference: str) -> tuple[RunFolder, Path]:
    """A run and its newest whole checkpoint, or the one at the kimg asked for."""
    at = _AT_KIMG.fullmatch(reference)
    run = find_run(workspace, at["run"] if at else reference)
    return run, _checkpoint_at(run, float(at["kimg"])) if at else _newest(run)


def _check_same_teacher(run: RunFolder, checkpoint: Path, teacher: Distillable) -> None:
    """A student means nothing with another base, autoencoder or text encoder.

    Raises:
        RequestError: what the run's teacher is called now is not what it was distilled from.
    """
    _, distilled_from, *_ = str(read_manifest(checkpoint)["progress"]["identity"]).split("/")
    if distilled_from != teacher.fingerprint:
        raise RequestError(
            f"Run {run.name} was distilled from another teacher than {teacher.name} is now "
            f"({distilled_from}, not {teacher.fingerprint})."
        )


def _newest(run: RunFolder) -> Path:
    problems: list[str] = []
    checkpoint = latest_checkpoint(run.checkpoints, problems.append)
    if checkpoint is None:
        raise WorkbenchError(" ".join([f"Run {run.name} has no whole checkpoint.", *problems]))
    return checkpoint


def _checkpoint_at(run: RunFolder, kimg: float) -> Path:
    nimg = round(kimg * 1000)
    found = average_at(run.checkpoints, nimg)
    if found is None:
        path = checkpoint_path(run.checkpoints, nimg)
        problem = damage(path) if path.is_dir() else "it is not there"
        kept = ", ".join(f"{nimg / 1000:g}" for nimg in kept_averages(run.checkpoints))
        raise RequestError(
            f"Run {run.name} has no whole checkpoint at {kimg:g} kimg ({problem}). "
            f"Kept: {kept or 'none'}."
        )
    return found
