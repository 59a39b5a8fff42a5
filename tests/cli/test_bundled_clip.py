"""The CLIP of scenes that comes with the package, named in settings as any other would be."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

import workbench.pretrained as pretrained
from tests.cli.conftest import InsideWorkbench
from workbench.data.scenes import Placed, Scenes, parse, render
from workbench.errors import RequestError
from workbench.evaluation import FeatureExtractors
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.networks.weights import metrics_package
from workbench.evaluation.scenes.clip import CHANGES, words

CPU = torch.device("cpu")
NAME = "scenes-clip"
UNSEEN = Scenes("unseen", count=200, seed=11)
STAR = (Placed("star", "red", 0.5, 0.5, 0.3),)
Score = Callable[[Sequence[str]], Tensor]


def folder() -> Path:
    found = pretrained.bundled_folder(Path(NAME))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def images() -> Tensor:
    return UNSEEN.images(32)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return [scene.caption for scene in UNSEEN.scenes]


@pytest.fixture(scope="module")
def score(tmp_path_factory: pytest.TempPathFactory, images: Tensor) -> Score:
    """The metric ``clip`` of the images with other captions."""
    place = tmp_path_factory.mktemp("clip")
    files = WeightFiles(place / "weights", {"clip": Path(NAME)})
    extractor = FeatureExtractors(place, files, CPU).find("clip")
    return lambda texts: extractor.extract(images, texts)[:, 0]


def test_it_prefers_captions_that_are_true(score: Score, captions: list[str]) -> None:
    own = score(captions)
    swapped = score([*captions[1:], captions[0]])
    assert own.mean() > swapped.mean() + 0.2
    rng = random.Random(0)
    for change, least in (("another color", 0.97), ("another shape", 0.9), ("another count", 0.9)):
        false = [CHANGES[change](parse(caption), rng) for caption in captions]
        there = [place for place, request in enumerate(false) if request is not None]
        texts = [" and ".join(a.phrase for a in r.objects) if r else "" for r in false]
        lower = score(texts)[there] < own[there]
        assert len(there) > 50
        assert lower.float().mean() > least


def test_one_wrong_color_lowers_it(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path, {"clip": Path(NAME)})
    extractor = FeatureExtractors(tmp_path, files, CPU).find("clip")
    images = render([STAR], 64)
    right, wrong = (
        extractor.extract(images, [text]).item() for text in ("a red star", "a blue star")
    )
    assert right > wrong + 0.1


def test_the_vocabulary_has_every_word_of_scenes(captions: list[str]) -> None:
    tokenizer = metrics_package("open_clip").get_tokenizer(f"local-dir:{folder()}")
    known = words()
    ids = tokenizer(captions)
    assert not (ids == known.index("[UNK]")).any()
    assert (ids.argmax(-1) < ids.shape[1] - 1).all()
    assert (ids.max(-1).values == len(known) - 1).all()


def test_evaluate_agrees_with_open_clip(
    workbench: InsideWorkbench, tmp_path: Path, images: Tensor, captions: list[str]
) -> None:
    """Second computation: open_clip's own loading, preprocessing and encoders."""
    (tmp_path / "made").mkdir()
    pictures = [to_pil_image(image.mul(255).round().to(torch.uint8)) for image in images[:40]]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "made" / f"{number:03d}.png")
    (tmp_path / "captions.txt").write_text("\n".join(captions[:40]) + "\n")
    (row,) = workbench.json(
        *("evaluate", str(tmp_path / "made"), "--prompts", str(tmp_path / "captions.txt")),
        *("--metric", "clip", "--weights", f"clip={NAME}"),
    )["table"]
    open_clip: Any = metrics_package("open_clip")
    name = f"local-dir:{folder()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    model.eval()
    with torch.no_grad():
        seen = model.encode_image(torch.stack([preprocess(picture) for picture in pictures]))
        read = model.encode_text(open_clip.get_tokenizer(name)(captions[:40]))
    assert row["clip"] == pytest.approx(F.cosine_similarity(seen, read).mean().item(), abs=1e-4)


def test_a_damaged_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package lies decides no fingerprint, and nothing is written into it."""
    files = WeightFiles(tmp_path / "weights", {"clip": Path(NAME)})
    packaged = FeatureExtractors(tmp_path, files, CPU).find("clip").fingerprint
    copied = shutil.copytree(folder(), tmp_path / "package" / NAME)
    monkeypatch.setattr(pretrained, "_HERE", copied.parent)
    assert files.find("clip").path == copied
    assert FeatureExtractors(tmp_path, files, CPU).find("clip").fingerprint == packaged
    assert [file.name for file in copied.parent.iterdir()] == [NAME]
    weights = copied / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RequestError, match="safetensors is damaged or missing"):
        files.find("clip")


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    files = WeightFiles(tmp_path, {"clip": Path("scene-clip")})
    with pytest.raises(RequestError, match=r"no such file or folder.* Did you mean 'scenes-clip'"):
        files.find("clip")
