"""Networks whose features Frechet distances compare: Inception-v3 and DINOv2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.networks.pixels import clean_resize, squashed
from workbench.evaluation.networks.weights import LocalWeights, load_torchscript, reading
from workbench.hashing import fingerprint
from workbench.teachers._torchvision import prepare_torchvision

_INCEPTION_SIZE = 299
_DINO_SIZE = 224
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class InceptionFeatures(FeatureExtractor):
    """The 2048 pooled features of clean-fid's mode "clean" (Parmar et al. 2022).

    Images are quantised to bytes, resized to 299 x 299 by clean-fid's resizer, and standardized as
    ``(x - 128) / 128`` for StyleGAN2's torchscript of the 2015 network.

    Raises:
        RequestError: the file is no such torchscript.
    """

    name = "inception"
    dimension = 2048

    def __init__(self, weights: LocalWeights, device: torch.device) -> None:
        with reading(weights):
            self._layers = load_torchscript(weights.path, device).eval().layers
        self._device = device
        self.fingerprint = fingerprint(
            {"weights": weights.sha256, "resize": f"clean-fid-pil-bicubic-{_INCEPTION_SIZE}"}
        )

    @torch.no_grad()
    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features (B, 2048), float32, of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        resized = clean_resize(images, _INCEPTION_SIZE).to(self._device)
        features: Tensor = self._layers.forward((resized - 128) / 128)
        return features.reshape(len(images), self.dimension).float()


class DinoV2Features(FeatureExtractor):
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
        self._preparation = squashed(_DINO_SIZE, _MEAN, _STD, antialias=True)
        self.fingerprint = fingerprint(
            {"weights": weights.sha256, "preparation": self._preparation.name}
        )

    @torch.no_grad()
    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features (B, D) of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        prepared = self._preparation.apply(images).to(self._device)
        features: Tensor = self._model(pixel_values=prepared).pooler_output
        return features.float()
