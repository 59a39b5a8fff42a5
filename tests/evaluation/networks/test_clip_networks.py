"""Scores on CLIPs equal their libraries' own, called directly on the same images as PNG."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tvf
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from tests.evaluation.networks.conftest import CLIP_CONFIG, CPU, PROMPTS
from workbench.errors import RequestError
from workbench.evaluation import FeatureExtractors
from workbench.evaluation.networks import KNOWN, LocalWeights, WeightFiles
from workbench.evaluation.networks.features import InceptionFeatures
from workbench.evaluation.networks.openclip import MEAN, STD, OpenClip
from workbench.evaluation.networks.scorers import AestheticScore
from workbench.evaluation.networks.weights import metrics_package

Stock = tuple[Any, Any, Any]


def close(ours: Tensor, stock: Tensor) -> None:
    torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_clip_score_is_open_clips_cosine(
    networks: FeatureExtractors, images: Tensor, stock_clip: Stock, opened: list[Any]
) -> None:
    model, preprocess, tokenize = stock_clip
    batch = torch.stack([preprocess(image) for image in opened])
    image_features, text_features, _ = model(batch, tokenize(list(PROMPTS)))
    ours = networks.find("clip").extract(images, PROMPTS)
    close(ours, (image_features * text_features).sum(dim=-1, keepdim=True))
    assert len(ours.unique()) == 4


@torch.no_grad()
def test_hpsv2_fits_the_whole_image_in(
    networks: FeatureExtractors, images: Tensor, stock_clip: Stock, opened: list[Any]
) -> None:
    model, _, tokenize = stock_clip
    batch = torch.stack([tvf.to_tensor(image) for image in opened])
    batch = tvf.resize(batch, [23, 32], interpolation=InterpolationMode.BICUBIC)
    batch = tvf.normalize(tvf.pad(batch, [0, 4, 0, 5]), list(MEAN), list(STD))
    image_features, text_features, _ = model(batch, tokenize(list(PROMPTS)))
    ours = networks.find("hpsv2").extract(images, PROMPTS)
    close(ours, (image_features * text_features).sum(dim=-1, keepdim=True))


@torch.no_grad()
def test_features_for_other_scores(
    networks: FeatureExtractors, images: Tensor, stock_clip: Stock, opened: list[Any]
) -> None:
    model, preprocess, _ = stock_clip
    plain = model.encode_image(torch.stack([preprocess(image) for image in opened]))
    close(networks.find("clip_features").extract(images, PROMPTS), plain)

    whole = torch.stack([tvf.to_tensor(image) for image in opened])
    squashed = F.interpolate(whole, size=(32, 32), mode="bicubic")
    of_cmmd = model.encode_image(tvf.normalize(squashed, list(MEAN), list(STD)))
    ours = networks.find("cmmd_features").extract(images, PROMPTS)
    close(ours, F.normalize(of_cmmd, dim=-1))


@torch.no_grad()
def test_aesthetic_score_is_the_published_heads(
    networks: FeatureExtractors, images: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    published = nn.Sequential(
        nn.Linear(24, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    ).eval()
    state = {f"layers.{key}": value for key, value in published.state_dict().items()}
    path = tmp_path / "head.pth"
    torch.save(state, path)
    networks.weights.given["aesthetic"] = path
    features = networks.find("clip_features").extract(images, PROMPTS)
    expected = published(F.normalize(features, dim=-1))
    close(networks.find("aesthetic").extract(images, PROMPTS), expected)
    torch.save({**state, "layers.5.weight": state["layers.4.weight"]}, path)
    Path(f"{path}.pin.json").unlink()
    with pytest.raises(RequestError, match=r"head of the improved aesthetic .*layers\.5\.weight"):
        FeatureExtractors(tmp_path, networks.weights, CPU).find("aesthetic")


def test_a_shared_network_sees_a_batch_once(networks: FeatureExtractors, images: Tensor) -> None:
    seen: list[int] = []
    network = networks.clip("clip-l14")
    network._model.visual.register_forward_hook(lambda *_: seen.append(1))
    for _ in range(2):
        networks.find("clip_features").extract(images, PROMPTS)
    assert len(seen) == 1
    changed = images.clone()
    first = networks.find("clip_features").extract(changed, PROMPTS)
    changed.mul_(0.5)
    second = networks.find("clip_features").extract(changed, PROMPTS)
    assert len(seen) == 3
    assert not torch.equal(first, second)


@pytest.fixture
def small_architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that open_clip knows for the small network."""
    factory = metrics_package("open_clip.factory")
    monkeypatch.setitem(factory._MODEL_CONFIGS, "small", CLIP_CONFIG)
    return "small"


def test_openai_publishes_torchscript(
    tmp_path: Path, clip_folder: Path, images: Tensor, small_architecture: str
) -> None:
    import open_clip
    from open_clip.model import CLIP

    weights = open_clip.factory.load_state_dict(str(clip_folder / "open_clip_model.safetensors"))

    class Archive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = CLIP(**CLIP_CONFIG).visual
            for name, value in weights.items():
                if not name.startswith("visual."):
                    holder: Any = self
                    *parents, leaf = name.split(".")
                    for parent in parents:
                        if not hasattr(holder, parent):
                            setattr(holder, parent, nn.Module())
                        holder = getattr(holder, parent)
                    holder.register_parameter(leaf, nn.Parameter(value))
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x: Tensor) -> Tensor:
            return x

    archive = Archive()
    archive.load_state_dict(weights, strict=False)
    path = tmp_path / "ViT-L-14.pt"
    torch.jit.script(archive).save(str(path))
    of_file = OpenClip(LocalWeights(KNOWN["clip-l14"], path, "0"), small_architecture, CPU)
    of_folder = OpenClip(LocalWeights(KNOWN["clip-l14"], clip_folder, "0"), "any", CPU)
    close(of_file.image_embeddings(images), of_folder.image_embeddings(images))
    close(of_file.text_embeddings(PROMPTS), of_folder.text_embeddings(PROMPTS))

    torch.save({"state_dict": weights}, tmp_path / "hps.pt")
    of_hps = OpenClip(
        LocalWeights(KNOWN["hpsv2"], tmp_path / "hps.pt", "0"), small_architecture, CPU
    )
    close(of_hps.image_embeddings(images), of_folder.image_embeddings(images))


def test_a_checkpoint_of_something_else_is_named(
    tmp_path: Path, clip_folder: Path, small_architecture: str
) -> None:
    other, noise, folder = tmp_path / "other.pt", tmp_path / "noise.pt", tmp_path / "folder"
    torch.save({"weights": torch.zeros(3)}, other)
    noise.write_bytes(b"no checkpoint at all")
    shutil.copytree(clip_folder, folder)
    (folder / "open_clip_config.json").write_text("{}")
    for path in (other, noise, folder):
        with pytest.raises(RequestError, match=rf"{path.name} cannot be read as open_clip ViT-g"):
            OpenClip(LocalWeights(KNOWN["clip"], path, "0"), small_architecture, CPU)
    for name, path in {"inception": other, "dinov2": folder, "pickscore": folder}.items():
        with pytest.raises(RequestError, match=rf"{path.name} cannot be read as"):
            FeatureExtractors(tmp_path, WeightFiles(tmp_path / "w", {name: path}), CPU).find(name)
    elsewhere = {"vision_cfg": {}, "text_cfg": {"hf_model_name": "roberta-base"}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": elsewhere}))
    with pytest.raises(RequestError, match="roberta-base is not in the folder"):
        OpenClip(LocalWeights(KNOWN["clip"], folder, "0"), small_architecture, CPU)


def test_nothing_is_unpickled(tmp_path: Path, small_architecture: str) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return (tmp_path / "executed").touch, ()

    path = tmp_path / "harmful.pt"
    torch.save({"state_dict": Harmful()}, path)
    for name in ("clip", "aesthetic", "inception"):
        weights = LocalWeights(KNOWN[name], path, "0")
        loaders: dict[str, Any] = {
            "clip": lambda weights: OpenClip(weights, small_architecture, CPU),
            "aesthetic": lambda weights: AestheticScore(SmallEmbedding(), weights, CPU),
            "inception": lambda weights: InceptionFeatures(weights, CPU),
        }
        with pytest.raises(RequestError, match="cannot be read as"):
            loaders[name](weights)
    assert not (tmp_path / "executed").exists()


class SmallEmbedding:
    dimension = 24
    fingerprint = "0"
