"""A download that resumes and is only ever a whole, checked file under its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from workbench.errors import WorkbenchError

_CHUNK = 1 << 20
_TIMEOUT_S = (10.0, 60.0)


def fetch(url: str, path: Path, size: int, sha256: str) -> None:
    """Download to ``path``; ``path.part`` keeps what a broken connection left, and goes on there.

    One process downloads, others wait for it.

    Args:
        size: bytes.
        sha256: checksum, in hexadecimal.

    Raises:
        WorkbenchError: the address does not answer, or what came is not the file.
    """
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        partial = path.with_name(f"{path.name}.part")
        _receive(url, partial, size)
        with partial.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            partial.unlink()
            raise WorkbenchError(f"{url} sent another file (SHA-256 {found}).")
        partial.replace(path)


def _receive(url: str, partial: Path, size: int) -> None:
    import requests

    have = partial.stat().st_size if partial.exists() else 0
    if have > size:
        partial.unlink()
        have = 0
    if have == size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            with partial.open("ab" if resumed else "wb") as file:
                for chunk in answer.iter_content(_CHUNK):
                    file.write(chunk)
    except requests.RequestException as error:
        raise WorkbenchError(f"{url} does not answer ({type(error).__name__}).") from error
    have = partial.stat().st_size
    if have != size:
        raise WorkbenchError(f"{url} sent {have:,} of {size:,} bytes; the next try goes on there.")
