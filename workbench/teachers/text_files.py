"""Text that people bring along, as it is: lines, whole files, and single values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import RequestError


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
    """A value that has to be text; nothing (None) is the empty one.

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
