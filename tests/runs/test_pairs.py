"""Image-text pairs from their source to a data-aided run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.drill import BRIEF
from tests.helpers import without_padding
from workbench.data.bundled import DIGITS, prompt_label
from workbench.data.pairs import PairsConfig, read_pairs
from workbench.errors import InterruptedRunError, RequestError
from workbench.runs.execution import execute
from workbench.runs.pairs import EncodedPairs, encode_pairs
from workbench.runs.spec import RunSpec
from workbench.students.text import TextJob
from workbench.teachers import PipelineTeacher
from workbench.teachers.text_store import TextStore
from workbench.tracking import default_uri, journal_path, read_operations, read_points
from workbench.training.events import StopFlag
from workbench.training.parallel import Ranks
from workbench.training.recipes import run_config
from workbench.workspace import Workspace, open_workspace

ALONE = Ranks(0, 1, torch.device("cpu"))
COUNT = 120


def encoded(
    config: PairsConfig, teacher: PipelineTeacher, root: Path, stop: bool = False
) -> EncodedPairs:
    listing = read_pairs(config)
    texts = TextStore(root / "text")
    texts.encode(teacher, texts.missing(listing.prompts))
    texts.refresh()
    job = TextJob(Workspace(root), ALONE, StopFlag(requested=stop))
    return encode_pairs(config.source, listing, teacher, texts, job)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """120 photographs with captions, of which one cannot be decoded."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draw, rows = np.random.default_rng(0), []
    for number in range(COUNT):
        pixels = draw.integers(0, 256, (40, 33, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
        rows.append(json.dumps({"file": f"{number:03d}.png", "caption": f"number {number}"}))
    (folder / "captions.jsonl").write_text("\n".join(rows))
    (folder / "007.png").write_bytes(b"no image")
    return folder


def test_every_digit_has_its_own_prompt_and_latents(
    tmp_path: Path, digits_teacher: PipelineTeacher
) -> None:
    pairs = encoded(PairsConfig(source="digits", limit=100), digits_teacher, tmp_path)
    images, labels = DIGITS.images(digits_teacher.resolution), DIGITS.labels
    assert [prompt_label(prompt) for prompt in pairs.prompts] == labels[:100].tolist()
    assert len(set(pairs.prompts)) > 10  # the wordings take turns
    index = torch.tensor([70, 3, 70])
    chosen = pairs.select(index)
    torch.testing.assert_close(chosen.latents, digits_teacher.encode_images(images[index]))
    expected = digits_teacher.encode([pairs.prompts[place] for place in index.tolist()])
    expected = without_padding(expected, digits_teacher)
    assert chosen.cond is not None
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(chosen.cond[name], tensor)


def test_a_bad_image_takes_its_caption_along(
    tmp_path: Path, photos: Path, digits_teacher: PipelineTeacher
) -> None:
    pairs = encoded(PairsConfig(source=str(photos)), digits_teacher, tmp_path)
    assert list(pairs.prompts) == [f"number {number}" for number in range(COUNT) if number != 7]
    with Image.open(photos / "008.png") as picture:
        middle = np.asarray(picture.crop((0, 3, 33, 36)).resize((32, 32), Image.Resampling.BICUBIC))
    expected = torch.from_numpy(middle.copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(
        pairs.select(torch.tensor([7])).latents, digits_teacher.encode_images(expected)
    )
    assert pairs.as_dict() == {
        "source": str(photos),
        "count": COUNT - 1,
        "skipped": 1,
        "fingerprint": pairs.fingerprint,
    }


def test_images_are_encoded_once_and_known_by_their_content(
    tmp_path: Path,
    photos: Path,
    digits_teacher: PipelineTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PairsConfig(source=str(photos))
    first = encoded(config, digits_teacher, tmp_path).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr(PipelineTeacher, "encode_images", None)  # nobody calls it
        assert encoded(config, digits_teacher, tmp_path).fingerprint == first
    os.utime(photos / "050.png", ns=(1, 1))  # touched, so encoded again, but the same data
    assert encoded(config, digits_teacher, tmp_path).fingerprint == first
    captions = photos / "captions.jsonl"
    captions.write_text(captions.read_text().replace("number 50", "number fifty"))
    assert encoded(config, digits_teacher, tmp_path).fingerprint != first


def test_a_stop_is_obeyed(tmp_path: Path, photos: Path, digits_teacher: PipelineTeacher) -> None:
    with pytest.raises(InterruptedRunError, match="Stopped while images were encoded"):
        encoded(PairsConfig(source=str(photos)), digits_teacher, tmp_path, stop=True)


@pytest.fixture
def request_of(tmp_path: Path, evaluation_cache: Path, digits_teacher_dir: Path):
    place = open_workspace(tmp_path / "workspace")
    shutil.copytree(evaluation_cache, place.cache)

    def make(*data: str) -> RunSpec:
        settings = [
            *BRIEF,
            "method.name=sid2a",
            *data,
            "method.adversarial.generator_start_kimg=0",
            "method.adversarial.adversarial_start_kimg=0",
        ]
        which = (f"teacher={digits_teacher_dir}", "recipe=digits")
        config = run_config(*which, *settings)
        return RunSpec(config, place, default_uri(place.root))

    return make


def test_a_data_aided_run_says_what_it_learnt_from(request_of, photos: Path) -> None:
    outcome = execute(request_of(f"data.source={photos}"))
    pairs = outcome.results["pairs"]
    assert (pairs["count"], pairs["skipped"]) == (COUNT - 1, 1)
    run = outcome.folder.path
    operations = list(read_operations(journal_path(run)))
    inputs = {op.body["name"]: op.body for op in operations if op.kind == "inputs"}
    assert inputs["pairs"]["digest"] == pairs["fingerprint"]
    assert inputs["pairs"]["rows"] == COUNT - 1
    warnings = [op.body for op in operations if "007.png" in json.dumps(op.body)]
    assert any("1 pairs of" in json.dumps(body) for body in warnings)
    assert any("skipped.tsv" in json.dumps(op.body) for op in operations if op.kind == "artifact")
    logged = {point.key for point in read_points(run)}
    assert {"train/bce_real", "train/bce_fake", "train/adversarial_loss"} <= logged


def test_data_that_cannot_be_used_leaves_no_run(request_of, photos: Path) -> None:
    (photos / "captions.jsonl").unlink()
    request = request_of(f"data.source={photos}")
    with pytest.raises(RequestError, match="holds 120 images and no captions"):
        execute(request)
    assert list(request.workspace.runs.glob("*/*")) == []


def test_too_many_bad_images_are_a_wrong_request(request_of, photos: Path) -> None:
    (photos / "008.png").write_bytes(b"")
    with pytest.raises(RequestError, match="2 of 120 images cannot be used"):
        execute(request_of(f"data.source={photos}"))
