"""Short hashes that name content: equal exactly where the content is.

What they name is stored (runs, caches, scores), so that no function here may ever give another
hash of the same content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def fingerprint(value: object, digits: int = 16) -> str:
    """The first hex digits of the SHA-256 of a JSON value, whatever the order of its keys.

    Example:
        >>> fingerprint({"seed": 0, "steps": 4}) == fingerprint({"steps": 4, "seed": 0})
        True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def file_fingerprint(files: Iterable[Path]) -> str:
    """Sixteen hex digits of the names and contents of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
