"""How many images of a teacher are drawn at once."""

from __future__ import annotations

import torch

from workbench.teachers.chunks import auto_batch_size, chunk_memory
from workbench.teachers.distillable import Distillable
from workbench.training.config import EvaluationConfig


def batch_size_of(settings: EvaluationConfig, teacher: Distillable, device: torch.device) -> int:
    """Images at once: as set, or what this process's device has room for.

    Ranks must agree on one number: take the main one's.
    """
    if settings.batch_size != "auto":
        return settings.batch_size
    parameters = sum(parameter.numel() for parameter in teacher.network.parameters())
    memory = chunk_memory(device)
    return auto_batch_size(memory, teacher.latent_shape, parameters, teacher.resolution)
