"""Safetensors files that say whether they are whole.

Beside each lies its seal (size, time, SHA-256), written last: a file without a fitting seal was cut
off or damaged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.workspace import write_json


def seal_of(file: Path) -> Path:
    """Where a file's seal lies."""
    return file.with_suffix(".json")


def write_sealed(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write aside, rename, seal: whatever stops this leaves no file that counts.

    Raises:
        WorkbenchError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), partial)
        with partial.open("rb") as content:
            os.fsync(content.fileno())
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        partial.replace(file)
        _seal(file, digest)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise WorkbenchError(f"Cannot write {file}: {error}.") from error


def _seal(file: Path, digest: str) -> None:
    state = file.stat()
    write_json(
        seal_of(file), {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": digest}
    )


def open_sealed(file: Path) -> dict[str, Tensor] | None:
    """The memory-mapped tensors of a whole file, None for any other.

    The content is read and hashed only if the file was touched since it was sealed.
    """
    try:
        seal, state = json.loads(seal_of(file).read_text(encoding="utf-8")), file.stat()
        if seal["bytes"] != state.st_size:
            return None
        if seal["mtime_ns"] != state.st_mtime_ns:
            with file.open("rb") as content:
                if hashlib.file_digest(content, "sha256").hexdigest() != seal["sha256"]:
                    return None
            with suppress(OSError):  # a place that can only be read is hashed every time
                _seal(file, seal["sha256"])
        with safe_open(file, framework="pt") as stored:
            names = stored.keys()
            return {name: stored.get_tensor(name) for name in names}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
