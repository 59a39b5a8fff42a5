"""A few-step student as a stock diffusers pipeline: its transformer, its scheduler, its noise."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow import shift_time
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.family import Family, call_defaults
from workbench.teachers.folder import MODEL_INDEX
from workbench.teachers.json_file import read_json

if TYPE_CHECKING:
    from workbench.teachers.pipeline import PipelineTeacher

STUDENT_RECORD = "student.json"
"""In an exported folder: what made the student, and how it is sampled."""

STUDENT_ENTRY = "student"
"""In an exported folder's model_index.json, and in a copy's that diffusers has saved: defaults."""

_TIME_ERROR = 1e-5  # the scheduler's own rounding stays below it
_TRAIN_STEPS = 1000  # of every stock scheduler: its times are 1000 sigma


def is_student(folder: Path) -> bool:
    """Whether a folder is an exported few-step student, or a copy that diffusers has saved."""
    return _says_student(folder) is not None


def student_entry(folder: Path) -> Mapping[str, Any]:
    """A student's defaults in its model_index.json; empty for other folders."""
    index = folder / MODEL_INDEX
    return (read_json(index).get(STUDENT_ENTRY) or {}) if index.is_file() else {}


def _says_student(folder: Path) -> str | None:
    """The name of the file that marks a folder as a student; None for other folders."""
    if (folder / STUDENT_RECORD).is_file():
        return STUDENT_RECORD
    return MODEL_INDEX if student_entry(folder) else None


def check_not_student(reference: str, folder: Path) -> None:
    """Few-step students are no teachers: their velocity is right at their own K times only.

    Raises:
        RequestError: the folder is an exported student, or a copy of one.
    """
    said = _says_student(folder)
    if said is not None:
        raise RequestError(
            f"{reference} is a few-step student ({said}), not a teacher. Teachers are "
            "many-step flow-matching pipelines; a generator can start from a student (start=DIR)."
        )


def student_scheduler(family: Family, steps: int, flow_shift: float, renoise: bool) -> Any:
    """A stock scheduler whose saved settings alone give a student's K times.

    sigma_i = shift(1 - i/K), f(t) = s t / (1 + (s - 1) t), then x_{i+1} from x0_hat with new noise
    (``stochastic_sampling``) or along the same line (Euler). A call of ``family.student_class``
    with another number of steps gives other sigmas than the student's.

    Args:
        steps: K.
        flow_shift: s.
        renoise: new noise at every step.

    Raises:
        RequestError: the shift is so far from 1 that the scheduler's settings cannot say it.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    make: Any = FlowMatchEulerDiscreteScheduler
    uniform = 1 - torch.arange(steps, dtype=torch.float64) / steps
    times = shift_time(uniform, flow_shift).float()
    settings: dict[str, Any] = {"shift": flow_shift if steps > 1 else 1.0}
    if not family.gives_sigmas and steps > 1:
        settings = {
            "shift": _shift_of_uniform_sigmas(steps, flow_shift),
            "shift_terminal": times[-1].item(),
        }
    scheduler = make(**settings, stochastic_sampling=renoise)
    given = {"sigmas": uniform.tolist()} if family.gives_sigmas else {"num_inference_steps": steps}
    scheduler.set_timesteps(**given)
    if not torch.allclose(scheduler.sigmas[:-1], times, rtol=0, atol=_TIME_ERROR):
        raise RequestError(
            f"No stock scheduler's settings give the {steps} step times of flow_shift "
            f"{flow_shift:g}; shifts between 0.1 and 10 can be exported."
        )
    return make.from_config(scheduler.config)


def _shift_of_uniform_sigmas(steps: int, flow_shift: float) -> float:
    """The scheduler's own shift r with which K steps become the student's.

    Without sigmas from outside, the scheduler shifts K points from 1 down to m = f_r(1/1000) and
    then stretches 1 - sigma until the last sigma is ``shift_terminal``. That is the student's grid
    exactly if (1 - 1/r) (1 - m) / (K - 1) = (1 - 1/s) / K; the left side grows with r.
    """
    wanted = (1 - 1 / flow_shift) / steps

    def left(r: float) -> float:
        lowest = r / (_TRAIN_STEPS + r - 1)
        return (1 - 1 / r) * (1 - lowest) / (steps - 1)

    if flow_shift == 1:
        return 1.0
    low, high = min(1.0, flow_shift), max(1.0, flow_shift)
    for _ in range(200):  # bisection, until no float lies between
        middle = (low + high) / 2
        low, high = (middle, high) if left(middle) < wanted else (low, middle)
    return (low + high) / 2


def stock_noise(
    family: Family,
    seed: int,
    latent_shape: tuple[int, ...],
    steps: int,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """The noise of one image as the stock pipeline draws it, a (1, C, H, W) for each step.

    One stream, of ``torch.manual_seed(seed)`` and of a ``generator`` with that seed, which a
    scheduler sees only where ``family.gives_generator``: first the latents, then the scheduler's
    noise after each step.

    Args:
        device: whose random numbers; a pipeline on a GPU draws the GPU's, unless it is given a
            generator of the CPU.
    """
    generator = torch.Generator(device).manual_seed(seed)
    latents = torch.randn(1, *latent_shape, generator=generator, device=device)
    rest = [family.scheduler_noise(latent_shape, generator) for _ in range(steps - 1)]
    return [latents, *rest]


def student_pipeline(teacher: PipelineTeacher, network: VelocityNetwork, scheduler: Any) -> Any:
    """The stock pipeline of a student: everything but transformer and scheduler is the teacher's.

    Args:
        network: the student, fed with its own ``distilled_guidance``.
    """
    parts = {
        **teacher.pipeline.components,
        "transformer": teacher.family.student_transformer(network),
        "scheduler": scheduler,
    }
    return teacher.family.student_type()(**parts)


def plain_module(family: Family) -> str:
    """The module in an exported folder: the stock class with the student's defaults.

    Named by its class: diffusers copies it to a folder that all loaded modules share.
    """
    return family.student_class.removesuffix("Pipeline").lower() + "_student"


def plain_loading(family: Family) -> tuple[str, str]:
    """What ``DiffusionPipeline.from_pretrained`` must be given to load it."""
    return f'custom_pipeline="{plain_module(family)}"', "trust_remote_code=True"


def plain_pipeline_source(family: Family) -> str:
    """The source of the module for a family's students."""
    source = Path(__file__).with_name("plain_pipeline.py").read_text(encoding="utf-8")
    return source.replace("SanaPipeline", family.student_class)


def plain_pipeline(module: Path, pipeline: Any, student: Mapping[str, Any]) -> Any:
    """A student's pipeline as the module of its folder makes it, of the same components.

    Args:
        module: the written file.
        student: the ``student`` of model_index.json.
    """
    make = runpy.run_path(str(module))["StudentPipeline"]  # importing would leave a __pycache__
    made = make(**pipeline.components, student=dict(student))
    made.set_progress_bar_config(disable=True)
    return made


def student_call(
    teacher: PipelineTeacher, pipeline: Any, steps: int, distilled_guidance: float
) -> Mapping[str, Any]:
    """Arguments of the student's plain call, besides the prompt.

    ``num_inference_steps``; ``guidance_scale``, which is 1 (off) unless the transformer takes it as
    an input; and what the teacher needs told that the class does not do by default (a size, a text
    length, SANA's instruction ...). Not the teacher's own guidance: it is distilled.

    Args:
        pipeline: the student's.
    """
    family, arguments = teacher.family, teacher.call_arguments
    embedded = getattr(pipeline.transformer.config, "guidance_embeds", False)
    guidance = distilled_guidance if embedded else 1.0
    defaults = call_defaults(family.student_type())
    own_size = teacher.resolution == family.native_resolution(teacher.pipeline)
    told = {}
    for name, default in defaults.items():
        value = arguments.get(name, default)
        derived = name in ("height", "width") and default is None and own_size
        fixed = name in (*_OF_THE_STUDENT, family.cfg_argument) or name.startswith(_GUIDED)
        if not fixed and value != default and not derived:
            told[name] = value
    return {"num_inference_steps": steps, "guidance_scale": guidance, **told}


_OF_THE_STUDENT = (
    "num_inference_steps",
    "sigmas",
    "timesteps",
    "intermediate_timesteps",
    "guidance_scale",
)
_GUIDED = ("negative_", "skip_guidance_", "skip_layer_guidance_")
