"""Using what was trained: samples of a student or of a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from workbench.students.measure import Samplers
from workbench.students.models import Drawing, LoadedModel
from workbench.teachers.student_pipeline import stock_noise
from workbench.training.evaluation_config import EvaluationConfig

if TYPE_CHECKING:
    from torch import Tensor


def sample_model(model: LoadedModel, drawing: Drawing, device: str = "cpu") -> Tensor:
    """One image (B, 3, H, W) in [0, 1], on the CPU, for each prompt.

    Image i is, up to rounding, what the model's stock pipeline draws for prompt i after
    ``torch.manual_seed(seed + i)``, called for this one image.

    Args:
        device: whose random numbers: those of the CPU, or of the GPU as a pipeline there draws.

    Raises:
        RequestError: as :meth:`LoadedModel.at`.
    """
    precision = drawing.precision or model.precision
    settings = EvaluationConfig(cfg_scale=drawing.cfg_scale, precision=precision)
    samplers = Samplers(model.teacher, settings, next(model.network.parameters()).device)
    sampled = model.in_precision(precision).at(drawing.steps, samplers, drawing.noise)
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
