"""Using what was trained: samples and scores of a run's student or of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.evaluation import digits_evaluator
from workbench.runs.folder import all_runs, find_run, matching_runs
from workbench.runs.measure import EncodedPrompts, Measurement, Row, SampledModel, Samplers
from workbench.teachers import KNOWN_TEACHERS, PipelineTeacher, load_teacher
from workbench.training.checkpoint import latest_checkpoint, load_modules
from workbench.training.config import EvaluationConfig
from workbench.training.parallel import Ranks, choose_device

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.methods import GeneratorConfig
    from workbench.teachers.base import VelocityNetwork
    from workbench.workspace import Workspace


@dataclass(frozen=True)
class LoadedModel:
    """A teacher, or the student of a run together with the teacher that encodes and decodes."""

    name: str
    teacher: PipelineTeacher
    network: VelocityNetwork
    generator: GeneratorConfig | None

    @property
    def default_steps(self) -> tuple[int, ...]:
        """All K for a student, the usual table's for a teacher."""
        return (
            EvaluationConfig().teacher_steps if self.generator is None else (self.generator.steps,)
        )

    def at(self, steps: int, samplers: Samplers) -> SampledModel:
        """The model with a number of steps.

        Raises:
            RequestError: more generator steps than the student was trained with.
        """
        if self.generator is None:
            return samplers.of_teacher(self.network, steps)
        if steps > self.generator.steps:
            raise RequestError(
                f"{self.name} was trained with {self.generator.steps} steps, not with {steps}."
            )
        if samplers.settings.cfg_scale != 1.0:
            raise RequestError(
                f"{self.name} is a student: guidance was distilled into it. Drop --cfg-scale."
            )
        return samplers.of_student(self.network, self.generator, steps)


def load_model(workspace: Workspace, reference: str) -> LoadedModel:
    """A run's averaged generator, from its newest whole checkpoint, or a teacher.

    Raises:
        RequestError: neither a run nor a teacher; names the nearest.
        WorkbenchError: the run has no whole checkpoint yet.
    """
    device = choose_device()
    if reference in KNOWN_TEACHERS or not matching_runs(workspace, reference):
        if reference not in KNOWN_TEACHERS and "/" not in reference:
            known = [*KNOWN_TEACHERS, *(run.name for run in all_runs(workspace))]
            raise unknown_name("run or teacher", reference, known)
        teacher = load_teacher(reference, workspace.teachers, device=device)
        return LoadedModel(reference, teacher, teacher.network, None)
    run = find_run(workspace, reference)
    config = run.config()
    teacher = load_teacher(config.teacher, workspace.teachers, device=device)
    network = deepcopy(teacher.network).float()
    problems: list[str] = []
    checkpoint = latest_checkpoint(run.checkpoints, problems.append)
    if checkpoint is None:
        raise WorkbenchError(" ".join([f"Run {run.name} has no whole checkpoint.", *problems]))
    load_modules(checkpoint, {"generator_ema": network})
    return LoadedModel(run.name, teacher, network, config.generator)


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


def sample_model(
    model: LoadedModel, prompts: Sequence[str], steps: int, settings: EvaluationConfig
) -> Tensor:
    """One image (B, 3, H, W) in [0, 1] a prompt; sample i's noise depends on the seed and i."""
    samplers = Samplers(model.teacher, settings, choose_device())
    encoded = model.teacher.encode(list(prompts))
    return samplers.images(model.at(steps, samplers), encoded, 0, len(prompts)).cpu()
