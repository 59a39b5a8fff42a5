"""Captions of a folder of images: text, JSON, or COCO's annotation file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.evaluation.images import list_images

COCO_FOLDER = "val2014"
COCO_CAPTIONS = Path("annotations") / "captions_val2014.json"


@dataclass(frozen=True)
class CaptionedImages:
    """Image files and, where there are any, a caption for each."""

    files: tuple[Path, ...]
    captions: tuple[str, ...]
    layout: str


def captioned_images(images: Path, captions: Path | None) -> CaptionedImages:
    """The images of a folder with their captions.

    COCO-2014's validation set is recognised by its layout (``val2014/`` beside
    ``annotations/captions_val2014.json``) or by its annotation file: an image's caption is its
    first, by annotation id, and images without one are left out.

    Raises:
        RequestError: no images; captions unreadable, or not one for each image.
    """
    if captions is None and (images / COCO_CAPTIONS).is_file():
        captions = images / COCO_CAPTIONS
    if (images / COCO_FOLDER).is_dir():
        images = images / COCO_FOLDER
    files = list_images(images)
    if captions is None:
        return CaptionedImages(tuple(files), (), "a folder of images without captions")
    if not captions.is_file():
        raise RequestError(f"There is no file of captions {captions}.")
    kind = captions.suffix.lower()
    if kind not in _READERS:
        raise unknown_name("type of caption file", kind or captions.name, _READERS)
    return _READERS[kind](captions, files, images)


def _from_text(path: Path, files: Sequence[Path], images: Path) -> CaptionedImages:
    """One caption a line, for the files in sorted order."""
    lines = _text(path).splitlines()
    if len(lines) != len(files):
        raise RequestError(
            f"{path} has {len(lines)} lines, {images} {len(files)} images: a .txt file holds one "
            "caption a line, for the files in sorted order."
        )
    return CaptionedImages(tuple(files), tuple(lines), "one line an image, in sorted order")


def _from_lines(path: Path, files: Sequence[Path], images: Path) -> CaptionedImages:
    """One ``{"file": ..., "caption": ...}`` a line."""
    numbered = ((n, line) for n, line in enumerate(_text(path).splitlines(), 1) if line.strip())
    rows = [(f"{path} line {number}", _parsed(path, line)) for number, line in numbered]
    return _named(path, rows, files, images)


def _from_json(path: Path, files: Sequence[Path], images: Path) -> CaptionedImages:
    """COCO's annotations, or a list of ``{"file": ..., "caption": ...}``."""
    content = _parsed(path, _text(path))
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        return _coco(path, content, files)
    if not isinstance(content, list):
        raise RequestError(
            f'{path} holds neither COCO annotations nor a list of {{"file", "caption"}}.'
        )
    rows = [(f"{path} entry {number}", row) for number, row in enumerate(content, 1)]
    return _named(path, rows, files, images)


_READERS: Mapping[str, Callable[[Path, Sequence[Path], Path], CaptionedImages]] = {
    ".txt": _from_text,
    ".jsonl": _from_lines,
    ".json": _from_json,
}


def _named(
    path: Path, rows: Sequence[tuple[str, Any]], files: Sequence[Path], images: Path
) -> CaptionedImages:
    captions: dict[str, str] = {}
    for where, row in rows:
        if not isinstance(row, dict) or not {"file", "caption"} <= set(row):
            raise RequestError(f'{where} is not {{"file": ..., "caption": ...}}: {str(row)[:60]}.')
        captions.setdefault(str(row["file"]), str(row["caption"]))
    names = {file.relative_to(images).as_posix(): file for file in files}
    _check_all(path, "images without a caption", [n for n in names if n not in captions])
    _check_all(path, "captions without an image", [n for n in captions if n not in names])
    return CaptionedImages(
        tuple(files), tuple(captions[name] for name in names), "captions by file name"
    )


def _check_all(path: Path, what: str, missing: Sequence[str]) -> None:
    if missing:
        raise RequestError(
            f"{path} does not match the images: {len(missing)} {what}, the first is {missing[0]}."
        )


def _coco(path: Path, content: Mapping[str, Any], files: Sequence[Path]) -> CaptionedImages:
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        notes = sorted(content["annotations"], key=lambda note: int(note["id"]))
        first: dict[str, str] = {}
        for note in notes:
            caption = " ".join(str(note["caption"]).split())
            first.setdefault(names[int(note["image_id"])], caption)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is no COCO annotation file: {error!r}.") from None
    kept = [file for file in files if file.name in first]
    here = {file.name for file in kept}
    _check_all(path, "captioned images are not there", sorted(set(first) - here))
    return CaptionedImages(
        tuple(kept), tuple(first[file.name] for file in kept), "COCO, each image's first caption"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Cannot read the captions {path}: {error}.") from None


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}.") from None
