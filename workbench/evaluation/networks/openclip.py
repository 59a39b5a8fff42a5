"""open_clip's networks: CLIP score, HPSv2, and image features for other scores."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.evaluation.extractors import FeatureExtractor
from workbench.evaluation.networks.pixels import (
    NetworkInput,
    OncePerBatch,
    cosine,
    each_prompt_once,
    pillow_preparation,
)
from workbench.evaluation.networks.weights import (
    LocalWeights,
    load_torchscript,
    metrics_package,
    reading,
)
from workbench.hashing import fingerprint

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's training images; every network here was trained with them."""

_NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
Prepare = Callable[[int], NetworkInput]
"""Image size of a network -> how its images are prepared."""


class OpenClip:
    """One network and its preprocessing; images and prompts to unnormalised embeddings (B, D).

    Args:
        weights: a checkpoint of ``architecture``; or a folder as open_clip's on the hub are, with
            ``open_clip_config.json``, which then says the architecture.
        architecture: one of open_clip's names; ``-quickgelu`` for OpenAI's weights.
        device: where it runs, in float32.
        prepare: instead of open_clip's own preprocessing (Pillow's bicubic, centre crop).

    Raises:
        RequestError: open_clip is missing, or the checkpoint is of another architecture.
    """

    def __init__(
        self,
        weights: LocalWeights,
        architecture: str,
        device: torch.device,
        prepare: Prepare | None = None,
    ) -> None:
        self.weights, self._device = weights, device
        open_clip = metrics_package("open_clip")
        with reading(weights):
            folder = weights.path.is_dir()
            name = f"local-dir:{weights.path.resolve()}" if folder else architecture
            self._model, preprocess = _load(open_clip, name, weights.path)
            self._tokenizer = open_clip.get_tokenizer(name)
            self.dimension = int(open_clip.get_model_config(name)["embed_dim"])
        self._model.eval().requires_grad_(False).to(device)
        size = _image_size(self._model)
        own = pillow_preparation(f"open_clip: {preprocess}", preprocess)
        self._preparation = prepare(size) if prepare else own
        self.fingerprint = fingerprint(
            {
                "weights": weights.sha256,
                "architecture": weights.path.name if folder else architecture,
                "preparation": self._preparation.name,
            }
        )
        self.image_embeddings = OncePerBatch(self._embed_images)

    @torch.no_grad()
    def _embed_images(self, images: Tensor) -> Tensor:
        prepared = self._preparation.apply(images).to(self._device)
        embeddings: Tensor = self._model.encode_image(prepared)
        return embeddings.float()

    def text_embeddings(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, D); prompts longer than the network reads are cut."""
        return each_prompt_once(self._embed_texts, prompts)

    @torch.no_grad()
    def _embed_texts(self, prompts: list[str]) -> Tensor:
        embeddings: Tensor = self._model.encode_text(self._tokenizer(prompts).to(self._device))
        return embeddings.float()


class ClipScore(FeatureExtractor):
    """Cosine of image and prompt: the plain one, neither times 100 (torchmetrics) nor 2.5 (Hessel
    et al. 2021). With ViT-g-14 it is the paper's CLIP score (0.32 to 0.34 in its tables), with
    HPSv2's network HPSv2 (Wu et al. 2023; published around 0.28 to 0.31)."""

    dimension = 1

    def __init__(self, name: str, network: OpenClip) -> None:
        self.name, self._network = name, network
        self.fingerprint = network.fingerprint

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B, 1) of images (B, 3, H, W) in [0, 1]."""
        return cosine(
            self._network.image_embeddings(images), self._network.text_embeddings(prompts)
        )


class ClipFeatures(FeatureExtractor):
    """Image embeddings (B, D), as they are or of length 1."""

    def __init__(self, name: str, network: OpenClip, *, normalized: bool) -> None:
        self.name, self._network, self._normalized = name, network, normalized
        self.dimension = network.dimension
        self.fingerprint = fingerprint(
            {"network": network.fingerprint, "normalised": str(normalized)}
        )

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Embeddings (B, D) of images (B, 3, H, W) in [0, 1]; prompts do not matter."""
        embeddings = self._network.image_embeddings(images)
        if self._normalized:
            return torch.nn.functional.normalize(embeddings, dim=-1)
        return embeddings.clone()


def _load(open_clip: Any, name: str, path: Path) -> tuple[Any, Any]:
    """The network with its weights, and its preprocessing of one Pillow image."""
    logging.getLogger("open_clip").setLevel(logging.ERROR)
    if path.is_dir():
        _check_folder(path)
        model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
        return model, preprocess
    if not _is_torchscript(path):
        model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(path))
        return model, preprocess
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    state = load_torchscript(path, torch.device("cpu")).state_dict()
    parameters = {key: value for key, value in state.items() if key not in _NOT_PARAMETERS}
    model.load_state_dict(parameters)
    return model, preprocess


def _check_folder(path: Path) -> None:
    """A folder's model may name encoders that open_clip would fetch from the hub.

    Raises:
        ValueError: it does, or it says no architecture.
    """
    config = json.loads((path / "open_clip_config.json").read_text(encoding="utf-8"))
    text = config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text:
        raise ValueError(f"its text encoder {text['hf_model_name']} is not in the folder")


def _is_torchscript(path: Path) -> bool:
    """OpenAI publishes its checkpoints as torchscript archives."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _image_size(model: Any) -> int:
    size = model.visual.image_size
    return int(size[0]) if isinstance(size, tuple | list) else int(size)
