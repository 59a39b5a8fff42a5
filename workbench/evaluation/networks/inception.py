"""Inception-v3 features as clean-fid computes them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.evaluation.networks.pixels import clean_resize
from workbench.evaluation.networks.weights import LocalWeights, load_torchscript, reading
from workbench.hashing import fingerprint

_SIZE = 299


class InceptionFeatures:
    """The 2048 pooled features of clean-fid's mode "clean" (Parmar et al. 2022).

    Images are quantised to bytes, resized to 299 x 299 by clean-fid's resizer, and standardised as
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
            {"weights": weights.sha256, "resize": f"clean-fid-pil-bicubic-{_SIZE}"}
        )

    @torch.no_grad()
    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features (B, 2048), float32, of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        resized = clean_resize(images, _SIZE).to(self._device)
        features: Tensor = self._layers.forward((resized - 128) / 128)
        return features.reshape(len(images), self.dimension).float()
