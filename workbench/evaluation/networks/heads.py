"""Small heads on image embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.evaluation.networks.openclip import OpenClip
from workbench.evaluation.networks.weights import LocalWeights, reading
from workbench.hashing import fingerprint

_WIDTHS = (1024, 128, 64, 16, 1)
_PARTS = ("weight", "bias")
_AT = (0, 2, 4, 6, 7)
"""Indices of the linear layers in the published checkpoint; dropouts stood between them."""


class AestheticScore:
    """The improved aesthetic predictor (Schuhmann 2022): a linear network, 768 to 1024, 128, 64, 16
    and 1, on OpenAI's ViT-L/14 image embedding of length 1; ratings from about 1 to 10.

    Args:
        network: the CLIP that embeds.
        weights: the head's checkpoint.
        device: where the head runs.

    Raises:
        RequestError: the checkpoint is no such head, or of another embedding's width.
    """

    name = "aesthetic"
    dimension = 1

    def __init__(self, network: OpenClip, weights: LocalWeights, device: torch.device) -> None:
        self._network, self._device = network, device
        widths = (network.dimension, *_WIDTHS)
        layers = [nn.Linear(*pair) for pair in pairwise(widths)]
        with reading(weights):
            state = torch.load(weights.path, map_location="cpu", weights_only=True)
            unknown = set(state) - {f"layers.{at}.{part}" for at in _AT for part in _PARTS}
            if unknown:
                raise KeyError(f"unexpected {', '.join(sorted(unknown))}")
            for layer, at in zip(layers, _AT, strict=True):
                layer.load_state_dict({part: state[f"layers.{at}.{part}"] for part in _PARTS})
        self._head = nn.Sequential(*layers).eval().requires_grad_(False).float().to(device)
        self.fingerprint = fingerprint(
            {"head": weights.sha256, "embedding": network.fingerprint, "length": "1"}
        )

    @torch.no_grad()
    def observe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Ratings (B, 1) of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        embeddings = F.normalize(self._network.image_embeddings(images), dim=-1)
        ratings: Tensor = self._head(embeddings.to(self._device))
        return ratings
