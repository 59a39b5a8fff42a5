"""Using what was trained: samples and scores of a student or of a teacher."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.evaluation import digits_evaluator
from workbench.methods import get_noise_rule
from workbench.runs.folder import RunFolder, all_runs, find_run, matching_runs
from workbench.runs.measure import EncodedPrompts, Measurement, Row, SampledModel, Samplers
from workbench.runs.student import (
    StudentRecord,
    TeacherReference,
    hub_revision,
    weights_fingerprint,
)
from workbench.teachers import KNOWN_TEACHERS, PipelineTeacher, find_teacher, load_pipeline_teacher
from workbench.teachers.student_pipeline import is_student, stock_noise
from workbench.training.checkpoint import (
    checkpoint_path,
    damage,
    latest_checkpoint,
    load_modules,
    read_manifest,
)
from workbench.training.config import EvaluationConfig
from workbench.training.parallel import Ranks, choose_device
from workbench.training.roles import AVERAGE, student_network

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.methods import GeneratorConfig
    from workbench.teachers.base import VelocityNetwork
    from workbench.training.config import RunConfig
    from workbench.workspace import Workspace

_AT_KIMG = re.compile(r"(?P<run>.+)@(?P<kimg>\d+(\.\d+)?)")


@dataclass(frozen=True)
class LoadedModel:
    """A teacher; or a student together with the pipeline that encodes and decodes for it.

    Attributes:
        name: of the run, folder or teacher.
        teacher: the pipeline; of an exported student, its own.
        network: what is sampled.
        generator: the student's sampler; None for a teacher.
        config: of the student's run.
        nimg: images that the student was trained on.
        record: of an exported student.
    """

    name: str
    teacher: PipelineTeacher
    network: VelocityNetwork
    generator: GeneratorConfig | None = None
    config: RunConfig | None = None
    nimg: int | None = None
    record: StudentRecord | None = None

    @property
    def default_steps(self) -> tuple[int, ...]:
        """All K for a student, the usual table's for a teacher."""
        return (
            EvaluationConfig().teacher_steps if self.generator is None else (self.generator.steps,)
        )

    @cached_property
    def weights(self) -> str:
        """Fingerprint of the weights that are sampled."""
        return weights_fingerprint(self.network.state_dict())

    @property
    def taught_by(self) -> TeacherReference:
        """The teacher: of a student, the one it was distilled from."""
        if self.record is not None:
            return self.record.teacher
        return TeacherReference(
            name=self.teacher.name,
            fingerprint=self.teacher.fingerprint,
            revision=hub_revision(self.teacher.folder),
        )

    def at(self, steps: int, samplers: Samplers, noise: str | None = None) -> SampledModel:
        """The model with a number of steps and, for exploration, another noise type.

        Raises:
            RequestError: more generator steps than the student was trained with, an unknown noise
                type, or one for a teacher.
        """
        if self.generator is None:
            if noise is not None:
                raise RequestError(
                    f"{self.name} is a teacher: its Euler steps have no noise type. Drop --noise."
                )
            return samplers.of_teacher(self.network, steps)
        if steps > self.generator.steps:
            raise RequestError(
                f"{self.name} was trained with {self.generator.steps} steps, not with {steps}."
            )
        if samplers.settings.cfg_scale != 1.0:
            raise RequestError(
                f"{self.name} is a student: guidance was distilled into it. Drop --cfg-scale."
            )
        generator = self.generator
        if noise is not None:
            get_noise_rule(noise)
            generator = generator.model_copy(update={"noise": noise})
        return samplers.of_student(self.network, generator, steps)


@dataclass(frozen=True)
class Drawing:
    """Which images: one for each prompt, image i from seed + i.

    ``noise`` replaces the student's own noise type; ``cfg_scale`` is a teacher's guidance.
    ``batch_size`` changes memory and speed alone.
    """

    prompts: Sequence[str]
    steps: int
    seed: int = 0
    noise: str | None = None
    cfg_scale: float = 1.0
    batch_size: int = 8


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
    folder = Path(reference).expanduser()
    if is_student(folder):
        return _exported(reference, folder, device, text)
    if reference not in KNOWN_TEACHERS:
        at = _AT_KIMG.fullmatch(reference)
        name = at["run"] if at else reference
        if matching_runs(workspace, name):
            run = find_run(workspace, name)
            checkpoint = _checkpoint_at(run, float(at["kimg"])) if at else _newest(run)
            return _of_run(workspace, run, checkpoint, device, text)
        if "/" not in reference:
            known = [*KNOWN_TEACHERS, *(run.name for run in all_runs(workspace))]
            raise unknown_name("run or teacher", reference, known)
    path = find_teacher(reference, workspace.teachers)
    teacher = load_pipeline_teacher(reference, path, device, text=text)
    return LoadedModel(reference, teacher, teacher.network)


def _exported(reference: str, folder: Path, device: torch.device, text: bool) -> LoadedModel:
    record = StudentRecord.load(folder)
    pipeline = load_pipeline_teacher(reference, folder, device, call=record.call, text=text)
    config = record.config
    return LoadedModel(
        reference, pipeline, pipeline.network, config.generator, config, record.nimg, record
    )


def _of_run(
    workspace: Workspace, run: RunFolder, checkpoint: Path, device: torch.device, text: bool
) -> LoadedModel:
    config = run.config()
    path = find_teacher(config.teacher, workspace.teachers)
    teacher = load_pipeline_teacher(config.teacher, path, device, text=text)
    network = student_network(teacher.network, config)
    load_modules(checkpoint, {AVERAGE: network})
    nimg = int(read_manifest(checkpoint)["progress"]["nimg"])
    return LoadedModel(run.name, teacher, network, config.generator, config, nimg)


def _newest(run: RunFolder) -> Path:
    problems: list[str] = []
    checkpoint = latest_checkpoint(run.checkpoints, problems.append)
    if checkpoint is None:
        raise WorkbenchError(" ".join([f"Run {run.name} has no whole checkpoint.", *problems]))
    return checkpoint


def _checkpoint_at(run: RunFolder, kimg: float) -> Path:
    path = checkpoint_path(run.checkpoints, round(kimg * 1000))
    problem = damage(path) if path.is_dir() else "it is not there"
    if problem is not None:
        whole = [p for p in sorted(run.checkpoints.glob("nimg-*")) if damage(p) is None]
        kept = ", ".join(f"{int(p.name.removeprefix('nimg-')) / 1000:g}" for p in whole)
        raise RequestError(
            f"Run {run.name} has no whole checkpoint at {kimg:g} kimg ({problem}). "
            f"Kept: {kept or 'none'}."
        )
    return path


def evaluate_model(
    workspace: Workspace,
    model: LoadedModel,
    steps: Sequence[int],
    settings: EvaluationConfig,
    metrics: Sequence[str],
) -> list[Row]:
    """One row for each number of steps.

    Raises:
        RequestError: unknown metric, or more steps than the student has.
    """
    ranks = Ranks(0, 1, choose_device())
    evaluator = digits_evaluator(
        workspace.cache, settings.samples, settings.seed, settings.batch_size, metrics
    )
    samplers = Samplers(model.teacher, settings, ranks.device)
    encoded = EncodedPrompts(model.teacher, evaluator.prompts)
    measurement = Measurement(evaluator, samplers, encoded, ranks)
    return [measurement.row(model.at(count, samplers)) for count in steps]


def sample_model(model: LoadedModel, drawing: Drawing, device: str = "cpu") -> Tensor:
    """One image (B, 3, H, W) in [0, 1], on the CPU, for each prompt.

    Image i is, up to rounding, what the model's stock pipeline draws for prompt i after
    ``torch.manual_seed(seed + i)``, called for this one image.

    Args:
        device: whose random numbers: those of the CPU, or of the GPU as a pipeline there draws.

    Raises:
        RequestError: as :meth:`LoadedModel.at`.
    """
    settings = EvaluationConfig(cfg_scale=drawing.cfg_scale)
    samplers = Samplers(model.teacher, settings, next(model.network.parameters()).device)
    sampled = model.at(drawing.steps, samplers, drawing.noise)
    images = []
    for start in range(0, len(drawing.prompts), drawing.batch_size):
        prompts = drawing.prompts[start : start + drawing.batch_size]
        seeds = range(drawing.seed + start, drawing.seed + start + len(prompts))
        shape, family = model.teacher.latent_shape, model.teacher.family
        each = [stock_noise(family, seed, shape, drawing.steps, device) for seed in seeds]
        noise = [torch.cat(step) for step in zip(*each, strict=True)]
        encoded = model.teacher.encode(prompts)
        images.append(samplers.images_from(sampled, encoded, noise.__getitem__).cpu())
    return torch.cat(images)
