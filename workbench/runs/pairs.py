"""A run's image-text pairs as its method takes them: latents, and encoded prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.methods import Pairs
from workbench.teachers import PipelineTeacher
from workbench.teachers.pair_sources import PairSet
from workbench.training.streams import PromptRows

_BATCH = 64  # images of one call of the autoencoder


class EncodedPairs:
    """Pairs whose images are encoded once, before the run trains; latents on the CPU.

    Args:
        prompts: the pairs' own, encoded, in their order.
    """

    def __init__(self, pairs: PairSet, teacher: PipelineTeacher, prompts: PromptRows) -> None:
        device = next(teacher.network.parameters()).device
        parts = [
            teacher.encode_images(part.to(device)).float().cpu()
            for part in torch.split(pairs.images(teacher.resolution), _BATCH)
        ]
        self._latents, self._prompts = torch.cat(parts), prompts

    def __len__(self) -> int:
        return len(self._latents)

    def select(self, index: Tensor, /) -> Pairs:
        """Rows by an int64 index (any order, repeats allowed)."""
        return Pairs(self._latents[index], self._prompts.select(index))
