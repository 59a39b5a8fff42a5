"""Small networks on disk, in the formats of the published ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.small_inception import SmallInception
from workbench.evaluation import FeatureExtractors
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.networks.weights import metrics_package

CPU = torch.device("cpu")
PROMPTS = ("the digit 7", "a red cat", "the digit 7", "two blue birds above a tree")
CLIP_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Four images (4, 3, 40, 56), none of them on the grid of bytes."""
    return torch.rand(4, 3, 40, 56, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def png_folder(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as PNG files, in order."""
    folder = tmp_path_factory.mktemp("png")
    for index, image in enumerate(images):
        pixels = image.mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="session")
def opened(png_folder: Path) -> list[Any]:
    return [Image.open(path) for path in sorted(png_folder.iterdir())]


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt"
    torch.jit.script(SmallInception().eval()).save(str(path))
    return path


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP as open_clip keeps them on the hub."""
    metrics_package("open_clip")
    from open_clip.model import CLIP

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    save_file(CLIP(**CLIP_CONFIG).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="session")
def stock_clip(clip_folder: Path) -> tuple[Any, Any, Any]:
    """open_clip's own model, preprocessing and tokenizer of that folder."""
    open_clip = metrics_package("open_clip")
    name = f"local-dir:{clip_folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return model.eval(), preprocess, open_clip.get_tokenizer(name)


@pytest.fixture
def networks(tmp_path: Path, clip_folder: Path, inception_file: Path) -> FeatureExtractors:
    """All CLIPs are the small one."""
    clips = dict.fromkeys(("clip", "clip-l14", "clip-l14-336", "hpsv2"), clip_folder)
    return FeatureExtractors(
        tmp_path, WeightFiles(tmp_path / "weights", {**clips, "inception": inception_file}), CPU
    )
