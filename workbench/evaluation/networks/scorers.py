"""Rewards that were trained on what people prefer: PickScore and the aesthetic predictor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.networks.openclip import OpenClip
from workbench.evaluation.networks.pixels import (
    cosine,
    each_prompt_once,
    pillow_images,
)
from workbench.evaluation.networks.weights import LocalWeights, reading
from workbench.hashing import fingerprint
from workbench.teachers._torchvision import prepare_torchvision

_WIDTHS = (1024, 128, 64, 16, 1)
_PARTS = ("weight", "bias")
_AT = (0, 2, 4, 6, 7)
"""Indices of the linear layers in the published checkpoint; dropouts stood between them."""


class AestheticScore(FeatureExtractor):
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
    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Ratings (B, 1) of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        embeddings = F.normalize(self._network.image_embeddings(images), dim=-1)
        ratings: Tensor = self._head(embeddings.to(self._device))
        return ratings


class PickScore(FeatureExtractor):
    """``logit_scale * cosine(image, prompt)`` (Kirstain et al. 2023); published around 21 to 22.

    Args:
        weights: a folder of transformers: config, safetensors, tokenizer and image processor.
        device: where it runs, in float32.

    Raises:
        RequestError: the folder holds no such CLIP.
    """

    name = "pickscore"
    dimension = 1

    def __init__(self, weights: LocalWeights, device: torch.device) -> None:
        prepare_torchvision()
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self._device, folder = device, str(weights.path)
        local: dict[str, Any] = {"local_files_only": True}
        processors: Any = AutoImageProcessor  # untyped in transformers
        with reading(weights):
            # Published scores were made with Pillow's resizing; torchvision's differs a little.
            self._processor = processors.from_pretrained(folder, backend="pil", **local)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, **local)
            model: Any = CLIPModel.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, **local
            )
            self._length = int(model.config.text_config.max_position_embeddings)
        self._model = model.eval().requires_grad_(False).to(device)
        self.fingerprint = fingerprint(
            {"weights": weights.sha256, "preparation": "transformers-pil"}
        )

    @torch.no_grad()
    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B, 1) of images (B, 3, H, W) in [0, 1]."""
        texts = each_prompt_once(self._embed_texts, prompts)
        scores: Tensor = self._model.logit_scale.exp() * cosine(self._embed_images(images), texts)
        return scores

    def _embed_texts(self, prompts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        ).to(self._device)
        embeddings: Tensor = self._model.get_text_features(**tokens).pooler_output
        return embeddings

    def _embed_images(self, images: Tensor) -> Tensor:
        inputs = self._processor(images=pillow_images(images), return_tensors="pt")
        embeddings: Tensor = self._model.get_image_features(
            pixel_values=inputs["pixel_values"].to(self._device)
        ).pooler_output
        return embeddings
