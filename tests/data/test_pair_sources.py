"""The same pairs from every layout, and what wrong ones are told."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from workbench.data.images import BadImageError, decode_square
from workbench.data.pairs import PairsConfig, read_pairs
from workbench.data.webdataset import expand_braces
from workbench.errors import RequestError

COUNT, SIZE = 6, 16
CAPTIONS = [f"picture {number}, schräg" for number in range(COUNT)]
NAMES = [f"{'sub/' if number == 5 else ''}im{number}.png" for number in range(COUNT)]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def pixels(number: int) -> np.ndarray:
    """A noisy square, so that no two are alike."""
    return np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def png(number: int, width: int = SIZE, height: int = SIZE) -> bytes:
    """The square in the middle of a wider or higher image."""
    picture = Image.new("RGB", (width, height), "red")
    corner = ((width - SIZE) // 2, (height - SIZE) // 2)
    picture.paste(Image.fromarray(pixels(number)), corner)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


CONTENTS = [png(number, SIZE + 4 * (number % 2), SIZE + 6 * (number == 2)) for number in range(6)]


def images(folder: Path) -> Path:
    (folder / "images" / "sub").mkdir(parents=True)
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (folder / "images" / name).write_bytes(content)
    return folder / "images"


def json_lines(folder: Path) -> PairsConfig:
    place = images(folder)
    rows = [json.dumps({"file": n, "caption": c}) for n, c in zip(NAMES, CAPTIONS, strict=True)]
    (place / "captions.jsonl").write_text("\n".join(reversed(rows)), encoding="utf-8")
    return PairsConfig(source=str(place))


def csv_elsewhere(folder: Path) -> PairsConfig:
    with (folder / "c.csv").open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["file_name", "prompt", "own"])
        rows.writerows([name, "not this", c] for name, c in zip(NAMES, CAPTIONS, strict=True))
    captions = str(folder / "c.csv")
    return PairsConfig(source=str(images(folder)), captions=captions, caption_column="own")


def text_lines(folder: Path) -> PairsConfig:
    place = images(folder)
    (place / "captions.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    return PairsConfig(source=str(place))


def beside(folder: Path) -> PairsConfig:
    place = images(folder)
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (place / name).with_suffix(".txt").write_text(f"{caption}\n", encoding="utf-8")
    return PairsConfig(source=str(place))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tars(folder: Path) -> PairsConfig:
    for shard in range(2):
        with tarfile.open(folder / f"s-{shard:02d}.tar", "w") as tar:
            for number in range(3 * shard, 3 * shard + 3):
                caption = CAPTIONS[number].encode()
                if shard:
                    caption = json.dumps({"id": 1, "caption": CAPTIONS[number]}).encode()
                add(tar, f"d/{number}.{'json' if shard else 'txt'}", caption)
                add(tar, f"d/{number}.PNG", CONTENTS[number])
    return PairsConfig(source=f"{folder}/s-{{00..01}}.tar")


def dataset() -> datasets.Dataset:
    columns = {"text": CAPTIONS, "image": [{"bytes": c, "path": None} for c in CONTENTS]}
    kinds = datasets.Features({"text": datasets.Value("string"), "image": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=kinds)


def saved_dataset(folder: Path) -> PairsConfig:
    datasets.DatasetDict({"held": dataset()}).save_to_disk(str(folder / "saved"))
    return PairsConfig(source=f"hf:{folder / 'saved'}", split="held")


def parquet(folder: Path) -> PairsConfig:
    plain = datasets.Dataset.from_dict({"picture": CONTENTS, "prompt": CAPTIONS})
    plain.to_parquet(str(folder / "p.parquet"))
    return PairsConfig(source=str(folder / "p.parquet"))


SOURCES = [json_lines, csv_elsewhere, text_lines, beside, tars, saved_dataset, parquet]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_layout_gives_the_same_pairs(
    tmp_path: Path, make: Callable[[Path], PairsConfig]
) -> None:
    config = make(tmp_path)
    listing = pickle.loads(pickle.dumps(read_pairs(config)))  # it travels between processes
    assert list(listing.prompts) == CAPTIONS
    assert listing.skipped == ()
    for number in (5, 0, 1, 2):
        loaded = listing.images.load(number, SIZE)
        expected = torch.from_numpy(pixels(number)).permute(2, 0, 1) / 255
        assert torch.equal(loaded.pixels, expected)
    assert read_pairs(config).images.identity == listing.images.identity
    few = read_pairs(config.model_copy(update={"limit": 2}))
    assert list(few.prompts) == CAPTIONS[:2]
    assert (len(few.images), few.images.identity == listing.images.identity) == (2, False)


def test_one_image_rewritten_is_another_source(tmp_path: Path) -> None:
    config = beside(tmp_path)
    before = read_pairs(config).images.identity
    (tmp_path / "images" / NAMES[3]).write_bytes(png(99))
    assert read_pairs(config).images.identity != before


def test_large_images_are_shrunk_by_areas_not_by_points() -> None:
    """A fine chequerboard is grey when every pixel counts; points would be black or white."""
    board = (np.indices((96, 128)).sum(0) % 2 * 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(board).save(out, "PNG")
    small = decode_square(out.getvalue(), 32)
    assert small.shape == (3, 32, 32)
    assert (small - 0.5).abs().max() < 0.05


def test_a_turned_photograph_is_turned_back() -> None:
    picture = Image.new("RGB", (32, 32), "black")
    picture.paste("white", (0, 0, 32, 8))
    exif = picture.getexif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    out = io.BytesIO()
    picture.save(out, "PNG", exif=exif)
    seen = decode_square(out.getvalue(), 32)
    assert seen[:, :, 24:].min() == 1
    assert seen[:, :, :24].max() == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (CONTENTS[0][:200], "cannot be decoded"),
        (b"no image", "cannot be decoded"),
        (b"", "cannot be decoded"),
        (CONTENTS[1], "is 20 x 16, smaller than 17 x 17"),
    ],
)
def test_bad_images_say_why(content: bytes, reason: str) -> None:
    with pytest.raises(BadImageError, match=reason):
        decode_square(content, 17 if "smaller" in reason else SIZE)


def test_braces_as_in_a_shell() -> None:
    assert list(expand_braces("a{08..10}{x,yy}.tar")) == [
        *("a08x.tar", "a08yy.tar", "a09x.tar", "a09yy.tar", "a10x.tar", "a10yy.tar")
    ]
    assert list(expand_braces("{9..10}")) == ["9", "10"]


def many(folder: Path, count: int, captions: dict[str, str]) -> PairsConfig:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(b"")
    rows = [json.dumps({"file": name, "caption": text}) for name, text in captions.items()]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return PairsConfig(source=str(folder))


def test_one_lone_half_in_a_hundred_is_skipped_and_two_are_refused(tmp_path: Path) -> None:
    captions = {f"{number:03d}.png": "x" for number in range(99)}
    listing = read_pairs(many(tmp_path / "one", 100, captions))
    assert len(listing.prompts) == 99
    assert [(s.where, s.reason) for s in listing.skipped] == [
        ("099.png", "image without a caption")
    ]
    captions["000.png"] = "  "
    with pytest.raises(RequestError) as error:
        read_pairs(many(tmp_path / "two", 100, captions))
    assert "of 100 pairs 2 lack a half" in str(error.value)
    assert "1 x image without a caption ('099.png')" in str(error.value)
    assert "1 x image with an empty caption ('000.png')" in str(error.value)


@pytest.mark.parametrize(
    ("rename", "cause"),
    [
        (str.upper, "capital letters"),
        (lambda name: name.replace(".png", ".jpg"), "another file type"),
        (lambda name: f"train/{name}", "another folder"),
        (
            lambda name: name.replace("1.png", "l.png"),
            "The nearest image to '00l.png' is '001.png'",
        ),
    ],
)
def test_captions_without_images_name_the_nearest_cause(
    tmp_path: Path, rename: Callable[[str], str], cause: str
) -> None:
    captions = {rename(f"{number:03d}.png"): "x" for number in range(4)}
    with pytest.raises(RequestError, match=r"caption without an image") as error:
        read_pairs(many(tmp_path / "c", 4, captions))
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


def sources_that_are_not(folder: Path) -> list[tuple[PairsConfig, str]]:
    (folder / "empty").mkdir()
    (folder / "bare").mkdir()
    (folder / "bare" / "a.png").write_bytes(CONTENTS[0])
    (folder / "cut.tar").write_bytes(b"x" * 700)
    tars(folder)
    plain = datasets.Dataset.from_dict({"image": CONTENTS, "label": [1] * 6})
    plain.to_parquet(str(folder / "n.parquet"))
    return [
        (PairsConfig(source="digts"), "Unknown data source 'digts'. Did you mean 'digits'?"),
        (PairsConfig(source=f"{folder}/none"), "does not exist; known: digits, scenes"),
        (PairsConfig(source=f"{folder}/cut.tar"), "Cannot read the shard"),
        (PairsConfig(source=f"{folder}/s-{{00..02}}.tar"), "There is no tar shard"),
        (PairsConfig(source=str(folder / "empty")), "holds no images"),
        (PairsConfig(source=str(folder / "bare")), "holds 1 images and no captions"),
        (PairsConfig(source=str(folder)), "holds tar shards: write data.source="),
        (PairsConfig(source=f"{folder}/no.parquet"), "There is no Parquet file"),
        (PairsConfig(source=f"{folder}/n.parquet"), "none of the columns prompt, caption, text"),
        (PairsConfig(source=f"{folder}/n.parquet", caption_column="label"), "not text"),
        (PairsConfig(source=f"{folder}/n.parquet", caption_column="lable"), "mean 'label'"),
    ]


def test_a_wrong_source_is_told_in_one_line(tmp_path: Path) -> None:
    for config, message in sources_that_are_not(tmp_path):
        if config.source == str(tmp_path):
            (tmp_path / "bare" / "a.png").unlink()
        with pytest.raises(RequestError) as error:
            read_pairs(config)
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("digits", {"captions": "c.txt"}),
        ("folder", {"split": "train"}),
        ("a.tar", {"image_column": "image"}),
        ("a.parquet", {"revision": "x"}),
        ("hf:name", {"captions": "c.txt"}),
    ],
)
def test_an_option_of_another_source_is_refused(source: str, option: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(option))} does not apply"):
        PairsConfig(source=source, **option)
