"""How many images are drawn at once."""

from __future__ import annotations

import torch

from workbench.teachers.distillable import Distillable
from workbench.training.config import EvaluationConfig


def batch_size_of(settings: EvaluationConfig, teacher: Distillable, device: torch.device) -> int:
    """Images at once: as set, or what the device's memory has room for."""
    if settings.batch_size == "auto":
        return 16
    return settings.batch_size
