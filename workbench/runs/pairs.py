"""A run's image-text pairs as its method takes them: latents, and encoded prompts."""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.methods import Pairs
from workbench.runs.measure import Encodings
from workbench.teachers import PipelineTeacher
from workbench.teachers.pair_sources import PairSet

_BATCH = 64  # images of one call of the autoencoder


class EncodedPairs:
    """Pairs whose images are encoded once, before the run trains; latents on the CPU."""

    def __init__(self, pairs: PairSet, teacher: PipelineTeacher, encoded: Encodings) -> None:
        device = next(teacher.network.parameters()).device
        parts = [
            teacher.encode_images(part.to(device)).float().cpu()
            for part in torch.split(pairs.images(teacher.resolution), _BATCH)
        ]
        self.latents, self.prompts, self._encoded = torch.cat(parts), pairs.prompts, encoded

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, index: Tensor, /) -> Pairs:
        """Rows by an int64 index (any order, repeats allowed)."""
        prompts = [self.prompts[int(place)] for place in index]
        return Pairs(self.latents[index], self._encoded.rows(prompts))
