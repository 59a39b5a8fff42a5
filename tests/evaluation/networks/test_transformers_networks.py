"""PickScore and DINOv2 equal transformers' own answers on the same images as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision.transforms.functional as tvf
from torch import Tensor
from torchvision.transforms import InterpolationMode
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
)

from tests.evaluation.networks.conftest import CPU, PROMPTS
from workbench.evaluation import FeatureExtractors
from workbench.evaluation.networks import WeightFiles

SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}


def small_tokenizer() -> CLIPTokenizer:
    """Letter by letter."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{each}</w>" for each in letters)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=40)


@torch.no_grad()
def test_pickscore_is_the_scaled_cosine(tmp_path: Path, images: Tensor, opened: list[Any]) -> None:
    torch.manual_seed(3)
    tokenizer = small_tokenizer()
    heads = {"num_attention_heads": 2}
    text = {
        **SMALL,
        **heads,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 40,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**SMALL, **heads, "image_size": 32, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    folder = tmp_path / "pickscore"
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    pixels = processor(images=opened, return_tensors="pt")["pixel_values"]
    tokens = tokenizer(list(PROMPTS), padding=True, return_tensors="pt")
    stock = model(pixel_values=pixels, **tokens).logits_per_image.diagonal()[:, None]

    extractor = FeatureExtractors(tmp_path, WeightFiles(tmp_path, {"pickscore": folder}), CPU).find(
        "pickscore"
    )
    ours = extractor.extract(images, PROMPTS)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
    assert len(ours.unique()) == 4
    long = extractor.extract(images, ["the digit 7 " * 50] * 4)
    assert long.isfinite().all()


@torch.no_grad()
def test_dinov2_features_are_the_class_token(
    tmp_path: Path, images: Tensor, opened: list[Any]
) -> None:
    torch.manual_seed(4)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Dinov2Model(Dinov2Config(**sizes, image_size=518, patch_size=14)).eval()
    folder = tmp_path / "dinov2-large"
    model.save_pretrained(folder)
    whole = torch.stack([tvf.to_tensor(image) for image in opened])
    resized = tvf.resize(whole, [224, 224], interpolation=InterpolationMode.BICUBIC, antialias=True)
    ready = tvf.normalize(resized, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    stock = model(pixel_values=ready).last_hidden_state[:, 0]

    extractor = FeatureExtractors(tmp_path, WeightFiles(tmp_path), CPU).find("dinov2")
    assert extractor.dimension == 16
    ours = extractor.extract(images, PROMPTS)
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5)
