"""Pairs that are damaged, or not what they look like: refused in one line, or read as they are."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.data.captions import read_caption_lines, read_caption_table
from workbench.data.images import decode_square
from workbench.data.pairs import PairsConfig, read_pairs
from workbench.errors import RequestError

ODD = "a cat\nsits\u2028and\x85waits\r\nhere"
"""One caption with every kind of line end in it."""


def stored(picture: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def shard(path: Path, texts: list[bytes], kind: str = "txt") -> Path:
    """A shard of one tiny image for each text; every member takes two blocks of 512 bytes."""
    content = stored(Image.new("RGB", (2, 2)))
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(texts):
            for name, held in ((f"{number}.png", content), (f"{number}.{kind}", text)):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))
    return path


def refusal(config: PairsConfig) -> str:
    with pytest.raises(RequestError) as error:
        read_pairs(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_shard_cut_anywhere_or_damaged_is_refused(tmp_path: Path) -> None:
    path = shard(tmp_path / "s.tar", [b"one", b"two", b"three"])
    config, whole = PairsConfig(source=str(path)), path.read_bytes()
    assert list(read_pairs(config).prompts) == ["one", "two", "three"]
    for cut, message in (
        (8 * 512, "s.tar is cut off at byte 4096"),  # after the second pair, at a boundary
        (8 * 512 + 100, "s.tar is cut off at byte 4096"),  # inside the next header
        (8 * 512 + 600, "Cannot read the shard"),  # inside the next image
        (12 * 512, "s.tar is cut off at byte 6144"),  # nothing but the end's mark is gone
    ):
        path.write_bytes(whole[:cut])
        assert message in refusal(config)
    path.write_bytes(whole[: 8 * 512] + b"\xff" * 512 + whole[9 * 512 :])
    assert "s.tar has a damaged header at byte 4096" in refusal(config)


def test_captions_keep_their_line_ends_in_every_layout(tmp_path: Path) -> None:
    rows = [("a.png", ODD), ("b.png", "x")]
    with (tmp_path / "c.csv").open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("file", "caption"), *rows])
    (tmp_path / "c.json").write_text(json.dumps([{"file": f, "caption": c} for f, c in rows]))
    lines = [json.dumps({"file": f, "caption": c}, ensure_ascii=False) for f, c in rows]
    (tmp_path / "c.jsonl").write_bytes("\r\n".join(lines).encode())
    for kind in ("csv", "json", "jsonl"):
        assert read_caption_table(tmp_path / f"c.{kind}").by_name == dict(rows), kind


def test_only_line_feeds_end_the_line_of_an_image(tmp_path: Path) -> None:
    file, images = tmp_path / "c.txt", [Path("a.png"), Path("b.png")]
    file.write_bytes("\ufeffa\u2028b\x85c\r\nd\n".encode())
    assert read_caption_lines(file, images, tmp_path) == ["a\u2028b\x85c", "d"]


NOT_TEXT = [(["a", "b"], "holds list, not text"), ("a \ud800", "holds half a character")]


@pytest.mark.parametrize(("caption", "message"), NOT_TEXT)
def test_captions_that_are_no_text_are_refused(
    tmp_path: Path, caption: object, message: str
) -> None:
    row = {"file": "a.png", "caption": caption}
    note = {"id": 7, "image_id": 1, "caption": caption}
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [note]}
    for name, content in (("a.jsonl", row), ("a.json", [row]), ("coco.json", coco)):
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(RequestError, match=message):
            read_caption_table(tmp_path / name)
    path = shard(tmp_path / "s.tar", [json.dumps(row).encode()] * 2, "json")
    assert f"s.tar: 0.json {message}" in refusal(PairsConfig(source=str(path)))


@pytest.mark.parametrize("layout", ["NAME.txt", "captions.txt", "captions.json"])
def test_a_caption_column_is_refused_where_there_are_no_columns(
    tmp_path: Path, layout: str
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(stored(Image.new("RGB", (2, 2))))
        if layout == "NAME.txt":
            (tmp_path / f"{name}.txt").write_text(name)
    if layout == "captions.txt":
        (tmp_path / layout).write_text("a\nb\n")
    if layout == "captions.json":
        files = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate("ab")]
        notes = [{"id": n, "image_id": n, "caption": name} for n, name in enumerate("ab")]
        (tmp_path / layout).write_text(json.dumps({"images": files, "annotations": notes}))
    assert list(read_pairs(PairsConfig(source=str(tmp_path))).prompts) == ["a", "b"]
    assert "own" in refusal(PairsConfig(source=str(tmp_path), caption_column="own"))


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    expected = decode_square(stored(Image.fromarray(grey.astype(np.uint8))), 16)
    for kind, bits in (("PNG", np.uint16), ("TIFF", np.int32)):  # modes I;16 and I
        wide = Image.fromarray(grey.astype(bits) * 257)
        assert torch.equal(decode_square(stored(wide, kind), 16), expected), kind


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_they_hide(mode: str) -> None:
    """The left half is hidden, the right one half transparent black; a palette has no halves."""
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 128 if mode != "P" else 255), (4, 0, 8, 8))
    if mode == "P":
        indexed = Image.fromarray(np.repeat([[0] * 4 + [1] * 4], 8, 0).astype(np.uint8), "P")
        indexed.putpalette([200, 0, 0, 0, 0, 0])
        indexed.info["transparency"] = 0
        picture = indexed
    seen = decode_square(stored(picture.convert(mode)), 8)
    assert seen[:, :, :4].min() == 1
    right = 0 if mode == "P" else 127 / 255
    assert seen[:, :, 4:].numpy() == pytest.approx(np.full((3, 8, 4), right), abs=1 / 255)
