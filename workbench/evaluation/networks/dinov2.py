"""DINOv2 features, for Frechet distances that agree better with people than Inception's do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.evaluation.networks.pixels import squashed
from workbench.evaluation.networks.weights import LocalWeights, reading
from workbench.hashing import fingerprint
from workbench.teachers._torchvision import prepare_torchvision

_SIZE = 224
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class DinoV2Features:
    """The class token after the last norm, at 224 pixels (FD-DINOv2, Stein et al. 2023).

    Images are resized by torch's antialiased bicubic, as in EDM2 (Karras et al. 2024).

    Args:
        weights: a folder of transformers with config and safetensors.
        device: where it runs, in float32.

    Raises:
        RequestError: the folder holds no DINOv2.
    """

    name = "dinov2"

    def __init__(self, weights: LocalWeights, device: torch.device) -> None:
        prepare_torchvision()
        from transformers import Dinov2Model

        with reading(weights):
            model: Any = Dinov2Model.from_pretrained(
                str(weights.path), use_safetensors=True, dtype=torch.float32, local_files_only=True
            )
        self._model, self._device = model.eval().requires_grad_(False).to(device), device
        self.dimension = int(model.config.hidden_size)
        self._preparation = squashed(_SIZE, _MEAN, _STD, antialias=True)
        self.fingerprint = fingerprint(
            {"weights": weights.sha256, "preparation": self._preparation.name}
        )

    @torch.no_grad()
    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features (B, D) of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        prepared = self._preparation.apply(images).to(self._device)
        features: Tensor = self._model(pixel_values=prepared).pooler_output
        return features.float()
