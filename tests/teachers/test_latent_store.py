"""Latents on disk: encoded once, whole or not at all, whoever encodes them and however often."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data.images import PairImages
from workbench.data.pairs import PairsConfig, read_pairs
from workbench.errors import RequestError
from workbench.teachers import PipelineTeacher
from workbench.teachers.latent_store import LatentStore, ahead, latents_identity

COUNT, ROWS = 230, 64  # four shards of 64, the last one shorter
BAD = {70: b"no image", 200: b""}


class StoppedError(Exception):
    """What a progress callback may raise."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs")
    draw = np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        pixels = draw.integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
        rows.append(json.dumps({"file": f"{number:03d}.png", "caption": f"number {number}"}))
    for number, content in BAD.items():
        (place / f"{number:03d}.png").write_bytes(content)
    (place / "captions.jsonl").write_text("\n".join(rows))
    return place


@pytest.fixture(scope="module")
def images(folder: Path) -> PairImages:
    return read_pairs(PairsConfig(source=str(folder))).images


def store_at(folder: Path, images: PairImages, teacher: PipelineTeacher) -> LatentStore:
    store = LatentStore(folder, images, teacher, shard_bytes=0)
    return LatentStore(folder, images, teacher, shard_bytes=ROWS * store.row_bytes)


def test_latents_are_the_images_and_bad_ones_are_remembered(
    tmp_path: Path, images: PairImages, digits_teacher: PipelineTeacher
) -> None:
    store = store_at(tmp_path, images, digits_teacher)
    assert store.missing() == [0, 1, 2, 3]
    told: list[tuple[int, int]] = []
    store.encode(store.missing(), show=lambda stage, done, total: told.append((done, total)))
    assert told[-1] == (COUNT, COUNT)
    store.refresh()
    again = store_at(tmp_path, images, digits_teacher)
    assert again.missing() == []
    assert [row for row, _ in again.bad()] == list(BAD)
    good = [number for number in range(COUNT) if number not in BAD]
    assert again.good().tolist() == good
    index = torch.tensor([227, 0, 70, 227])  # places among the good ones, in any order
    pixels = torch.stack([images.load(good[i], 32).pixels for i in index.tolist()])
    expected = digits_teacher.encode_images(pixels)
    torch.testing.assert_close(again.select(index), expected)
    digests = [bytes(row.tolist()) for row in again.digests()]
    assert digests[70] == images.load(good[70], 32).digest
    assert len(set(digests)) == len(good)


def test_an_interrupted_encoding_keeps_whole_shards_alone(
    tmp_path: Path, images: PairImages, digits_teacher: PipelineTeacher
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done > ROWS + 20:
            raise StoppedError

    store = store_at(tmp_path, images, digits_teacher)
    with pytest.raises(StoppedError):
        store.encode(store.missing(), show=stop)
    store.refresh()
    assert store.missing() == [1, 2, 3]
    before = (tmp_path / f"shard-{ROWS}-000000.safetensors").stat().st_mtime_ns
    store.encode(store.missing())
    store.refresh()
    assert (tmp_path / f"shard-{ROWS}-000000.safetensors").stat().st_mtime_ns == before
    whole = store_at(tmp_path / "whole", images, digits_teacher)
    whole.encode(whole.missing())
    whole.refresh()
    everything = torch.arange(COUNT - len(BAD))
    assert torch.equal(store.select(everything), whole.select(everything))


def test_ranks_share_the_shards_and_make_the_same_bits(
    tmp_path: Path, images: PairImages, digits_teacher: PipelineTeacher
) -> None:
    one = store_at(tmp_path / "one", images, digits_teacher)
    one.encode(one.missing())
    two = store_at(tmp_path / "two", images, digits_teacher)
    todo = two.missing()
    for rank in (1, 0):
        two.encode(todo, rank, 2)
        seen = store_at(tmp_path / "two", images, digits_teacher).missing()
        assert seen == ([0, 2] if rank == 1 else [])
    one.refresh(), two.refresh()
    everything = torch.arange(COUNT - len(BAD))
    assert torch.equal(one.select(everything), two.select(everything))


def test_a_damaged_shard_is_no_shard(
    tmp_path: Path, images: PairImages, digits_teacher: PipelineTeacher
) -> None:
    store = store_at(tmp_path, images, digits_teacher)
    store.encode(store.missing())
    shard = tmp_path / f"shard-{ROWS}-000002.safetensors"
    content = shard.read_bytes()
    shard.unlink()  # another file: this one is mapped
    shard.write_bytes(content[:-1])
    store.refresh()
    assert store.missing() == [2]
    with store.locked():
        assert store.sweep() == 1
    assert not shard.exists()


def test_above_one_per_cent_it_stops_early_with_a_list(
    tmp_path: Path, folder: Path, digits_teacher: PipelineTeacher
) -> None:
    """Three bad of 230 are allowed to be 2.3: it is the third that stops, not the end."""
    worse = tmp_path / "worse"
    worse.mkdir()
    for file in folder.iterdir():
        os.link(file, worse / file.name)
    small = worse / "071.png"
    small.unlink()
    Image.new("RGB", (300, 31)).save(small)
    for number in (1, 2):  # of the first shard
        (worse / f"{number:03d}.png").unlink()
        (worse / f"{number:03d}.png").write_bytes(b"GIF89a")
    listing = read_pairs(PairsConfig(source=str(worse)))
    store = store_at(tmp_path / "store", listing.images, digits_teacher)
    with pytest.raises(RequestError, match=r"3 of 230 images cannot be used, above 1%.*001\.png"):
        store.encode(store.missing())
    lines = (tmp_path / "store" / "skipped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [
        str(worse / f"{number:03d}.png") for number in (1, 2, 70)
    ]
    store.refresh()
    assert store.missing() == [1, 2, 3]


def test_the_key_is_images_autoencoder_and_size(
    images: PairImages,
    folder: Path,
    digits_teacher: PipelineTeacher,
    family_teacher: PipelineTeacher,
) -> None:
    key = latents_identity(digits_teacher, images)
    few = read_pairs(PairsConfig(source=str(folder), limit=9)).images
    assert latents_identity(digits_teacher, few) != key
    same = family_teacher.folder == digits_teacher.folder
    assert (latents_identity(family_teacher, images) == key) is same


def test_no_room_is_said_before_anything_is_encoded(
    tmp_path: Path,
    images: PairImages,
    digits_teacher: PipelineTeacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = store_at(tmp_path, images, digits_teacher)
    usage = type("Usage", (), {"free": 100 * store.row_bytes})
    monkeypatch.setattr("workbench.teachers.latent_store.shutil.disk_usage", lambda path: usage)
    with pytest.raises(RequestError, match=r"Set data\.limit to at most 100,"):
        store.encode(store.missing())
    store.encode([3])  # what is left of an interrupted encoding still fits
    store.refresh()
    assert store.missing() == [0, 1, 2]


def test_only_so_many_are_computed_ahead() -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number**2

    results = ahead(square, range(50), 4)
    assert [next(results), next(results)] == [0, 1]
    assert len(begun) <= 7
    assert list(results) == [number**2 for number in range(2, 50)]
