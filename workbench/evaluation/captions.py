"""Captions of a folder of images: text, a table of names, or COCO's annotation file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.data.captions import (
    CaptionTable,
    read_caption_lines,
    read_caption_table,
)
from workbench.data.images import list_images
from workbench.errors import RequestError

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
    if captions.suffix.lower() == ".txt":
        return _in_order(captions, files, images)
    table = read_caption_table(captions)
    if table.is_coco:
        return _of_coco(captions, table, files)
    return _named(captions, table, files, images)


def _in_order(path: Path, files: Sequence[Path], images: Path) -> CaptionedImages:
    """One caption a line, for the files in sorted order."""
    lines = read_caption_lines(path, files, images)
    return CaptionedImages(tuple(files), tuple(lines), "one line an image, in sorted order")


def _named(path: Path, table: CaptionTable, files: Sequence[Path], images: Path) -> CaptionedImages:
    captions = table.by_name
    names = {file.relative_to(images).as_posix(): file for file in files}
    _check_all(path, "images without a caption", [n for n in names if n not in captions])
    _check_all(path, "captions without an image", [n for n in captions if n not in names])
    return CaptionedImages(tuple(files), tuple(captions[name] for name in names), table.layout)


def _of_coco(path: Path, table: CaptionTable, files: Sequence[Path]) -> CaptionedImages:
    first = table.by_name
    kept = [file for file in files if file.name in first]
    here = {file.name for file in kept}
    _check_all(path, "captioned images are not there", sorted(set(first) - here))
    return CaptionedImages(tuple(kept), tuple(first[file.name] for file in kept), table.layout)


def _check_all(path: Path, what: str, missing: Sequence[str]) -> None:
    if missing:
        raise RequestError(
            f"{path} does not match the images: {len(missing)} {what}, the first is {missing[0]}."
        )
