"""Files of captions, read without changes: lines, and tables by the name of the image file.

Own code, because ``datasets`` changes texts and loses places: its text reader keeps a byte order
mark and ends lines at a lone CR, its CSV reader takes the caption "NA" for none, its JSON reader
fills a missing key with none, and no error of theirs says in which line it is. COCO's annotations
it cannot read at all.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, unknown_name

FILE_KEYS = ("file", "file_name")
"""Names of the column that names an image, looked for in this order."""

CAPTION_KEYS = ("prompt", "caption", "text")
"""Names of a column of captions, looked for in this order where none is named."""


@dataclass(frozen=True)
class CaptionTable:
    """An image's name -> its caption, the first where it has several.

    Attributes:
        layout: what it was read from, in words.
        is_coco: the names are those of files, not places in a folder, and are a choice of them.
    """

    by_name: Mapping[str, str]
    layout: str
    is_coco: bool = False


def read_caption_table(path: Path, caption_key: str | None = None) -> CaptionTable:
    """A file that names the image of every caption.

    An image's caption in a COCO file is its first, by annotation id.

    Args:
        caption_key: column of the captions; None = the first of :data:`CAPTION_KEYS`.

    Raises:
        RequestError: an unknown type of file, unreadable, a row without image or caption, a caption
            that is not text, or a column named for a COCO file.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        raise unknown_name("type of caption file", kind or path.name, (*TABLES, ".txt"))
    content = TABLES[kind](path)
    if not isinstance(content, CaptionTable):
        return _table(content, caption_key)
    if caption_key is not None:
        raise RequestError(f"{path} is a COCO file, which has no column {caption_key!r} to choose.")
    return content


def read_caption_lines(path: Path, files: Sequence[Path], images: Path) -> list[str]:
    """One caption a line, for the ``files`` of a folder in sorted order.

    Raises:
        RequestError: unreadable, or not as many lines as files.
    """
    lines = [line for _, line in read_lines(path)]
    if len(lines) != len(files):
        raise RequestError(
            f"{path} has {len(lines)} lines, {images} {len(files)} images: a .txt file holds one "
            "caption a line, for the files in sorted order."
        )
    return lines


def key_of(row: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first of the keys that a row has."""
    return next((key for key in keys if key in row), None)


_Rows = Iterable[tuple[str, Any]]


def _json_lines(path: Path) -> _Rows:
    """One ``{"file": ..., "caption": ...}`` a line."""
    for where, line in read_lines(path):
        if line.strip():
            yield where, parsed_json(where, line)


def _csv_rows(path: Path) -> _Rows:
    """A header that names the columns, then one row an image."""
    try:
        content = io.StringIO(read_text(path), newline="")
        for number, row in enumerate(csv.DictReader(content, strict=True), 1):
            yield f"{path} row {number}", row
    except csv.Error as error:
        raise RequestError(f"{path} is not CSV: {error}.") from None


def _json_rows(path: Path) -> _Rows | CaptionTable:
    """COCO's annotations, or a list of ``{"file": ..., "caption": ...}``."""
    content = parsed_json(str(path), read_text(path))
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        return _coco(path, content)
    if not isinstance(content, list):
        raise RequestError(
            f'{path} holds neither COCO annotations nor a list of {{"file", "caption"}}.'
        )
    return [(f"{path} entry {number}", row) for number, row in enumerate(content, 1)]


TABLES: Mapping[str, Callable[[Path], _Rows | CaptionTable]] = {
    ".jsonl": _json_lines,
    ".json": _json_rows,
    ".csv": _csv_rows,
}
"""Types of files that name the image of every caption."""


def _table(rows: _Rows, caption_key: str | None) -> CaptionTable:
    captions: dict[str, str] = {}
    keys = CAPTION_KEYS if caption_key is None else (caption_key,)
    for where, row in rows:
        file = key_of(row, FILE_KEYS) if isinstance(row, dict) else None
        caption = key_of(row, keys) if isinstance(row, dict) else None
        if file is None or caption is None:
            wanted = caption_key or "caption"
            raise RequestError(
                f'{where} is not {{"file": ..., "{wanted}": ...}}: {repr(row)[:60]}.'
            )
        captions.setdefault(checked_text(where, row[file]), checked_text(where, row[caption]))
    return CaptionTable(captions, "captions by file name")


def _coco(path: Path, content: Mapping[str, Any]) -> CaptionTable:
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
        notes = sorted(content["annotations"], key=lambda note: int(note["id"]))
        first: dict[str, str] = {}
        for note in notes:
            caption = checked_text(f"{path} annotation {note['id']}", note["caption"])
            first.setdefault(names[int(note["image_id"])], " ".join(caption.split()))
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path} is no COCO annotation file: {error!r}.") from None
    return CaptionTable(first, "COCO, each image's first caption", is_coco=True)


def parsed_json(where: str, text: str) -> Any:
    """The value that a text is as JSON.

    Raises:
        RequestError: it is none; names the place.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"{where} is not JSON: {error}.") from None


def read_text(path: Path) -> str:
    """A UTF-8 file's text with its line ends as they are, without a byte order mark.

    Raises:
        RequestError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"Cannot read the captions {path}: {error}.") from None


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines without their ends, each with its place; only LF and CR LF end a line.

    Raises:
        RequestError: it cannot be read, or is not UTF-8; names the line.
    """
    try:
        content = path.open("rb")
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error}.") from None
    with content:
        for number, line in enumerate(content, 1):
            where = f"{path} line {number}"
            try:
                yield where, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise RequestError(
                    f"{where} is not UTF-8 (byte {error.start + 1}: 0x{line[error.start]:02x}). "
                    "Save the file as UTF-8."
                ) from None


def checked_text(where: str, value: Any) -> str:
    """A value that must be text; None counts as empty text.

    Raises:
        RequestError: another kind of value, or text that UTF-8 cannot hold; names the place.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RequestError(f"{where} holds {type(value).__name__}, not text: {str(value)[:60]!r}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RequestError(f"{where} holds half a character (a lone surrogate).") from None
    return value
