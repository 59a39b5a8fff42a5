"""Networks that come with the package: a folder each, named in settings by its name alone.

``SHA256SUMS`` in the folder lists the files that decide what the network computes, as sha256sum
writes it; the hash of that list is the network's identity, wherever the package is installed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.errors import RequestError
from workbench.hashing import file_sha256

_HERE = Path(__file__).parent
_SUMS = "SHA256SUMS"


def bundled_names() -> tuple[str, ...]:
    """The networks that there are."""
    return tuple(sorted(file.parent.name for file in _HERE.glob(f"*/{_SUMS}")))


def bundled_folder(path: Path) -> Path | None:
    """The folder of the network that a path names; None where it is an ordinary path."""
    return (
        _HERE / path.name if path.parts == (path.name,) and path.name in bundled_names() else None
    )


def checked_hash(folder: Path) -> str:
    """SHA-256 of a bundled network's list of files, each of which is as the list says.

    Raises:
        RequestError: one is missing or damaged.
    """
    listed = (folder / _SUMS).read_text(encoding="utf-8")
    for line in listed.splitlines():
        expected, _, name = line.partition("  ")
        file = folder / name
        if not file.is_file() or file_sha256(file) != expected:
            raise RequestError(
                f"{file} is damaged or missing: it is not the file that came with the package. "
                "Install workbench again."
            )
    return hashlib.sha256(listed.encode()).hexdigest()


def write_checksums(folder: Path) -> None:
    """List a network's files as they are now."""
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
    listed = [name for name in names if name not in (_SUMS, "README.md")]
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in listed]
    (folder / _SUMS).write_text("".join(lines), encoding="utf-8")
