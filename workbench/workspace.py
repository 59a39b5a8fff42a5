"""The folder where a person's teachers, runs and tracking store live."""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import AlreadyRunningError, RequestError

VERSION = 1
ENVIRONMENT_VARIABLE = "WORKBENCH_WORKSPACE"
DEFAULT = Path(".workbench")
_MARKER = "workspace.json"
PARTIAL = ".partial"
"""How the name of a file or folder ends that is still being written."""

_HOST_LETTERS = 32  # a file name has room for 255 bytes


@dataclass(frozen=True)
class Workspace:
    """Paths below one root."""

    root: Path

    @property
    def teachers(self) -> Path:
        return self.root / "teachers"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"


def open_workspace(root: Path | None = None, *, create: bool = True) -> Workspace:
    """The workspace at ``root``, else where $WORKBENCH_WORKSPACE or workbench.toml say.

    Where nobody says, it is ./.workbench.

    Args:
        create: make it if it is not there. False for what only reads: a workspace that was named
            has to be there then; ./.workbench and an empty folder read as empty ones, unchanged.

    Raises:
        RequestError: the folder belongs to another version of workbench, is none of ours, or is
            not there and not to be made.
    """
    named = root or _named_workspace()
    chosen = (named or DEFAULT).expanduser().resolve()
    marker = chosen / _MARKER
    if chosen.is_file():
        raise RequestError(f"The workspace {chosen} is a file; expected a folder.")
    if not create and not chosen.exists():
        if named is None:
            return Workspace(chosen)
        raise RequestError(
            f"There is no workspace at {chosen}. Name one that is there with --workspace, "
            f"{ENVIRONMENT_VARIABLE} or workbench.toml."
        )
    if not marker.exists():
        if chosen.is_dir() and any(chosen.iterdir()):
            raise RequestError(
                f"{chosen} is not a workspace (no {_MARKER}) and not empty. Name another folder "
                f"with --workspace or {ENVIRONMENT_VARIABLE}."
            )
        if not create:
            return Workspace(chosen)
        chosen.mkdir(parents=True, exist_ok=True)
        write_json(marker, {"version": VERSION})
    try:
        version = json.loads(marker.read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"Cannot read {marker}: {error}.") from error
    if version != VERSION:
        raise RequestError(
            f"The workspace {chosen} has version {version}; this workbench reads version "
            f"{VERSION}. Use another folder with --workspace or {ENVIRONMENT_VARIABLE}."
        )
    return Workspace(chosen)


def _named_workspace() -> Path | None:
    """What the environment says, else workbench.toml."""
    from workbench.user_config import load_user_config  # pydantic, which --help does without

    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named) if named else load_user_config().workspace


def write_json(path: Path, value: object) -> None:
    """Write JSON aside, flush it to the disk and rename: a reader never sees half a file."""
    with written_aside(path) as partial:
        partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def written_aside(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Where to write what becomes ``path`` when all is written; an error leaves nothing of it.

    Args:
        durable: whether the file must survive a power failure. False for many files that are
            checked when they are read and can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        if durable:
            flush_to_disk(partial)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    if durable:
        with suppress(OSError):  # some file systems cannot flush folders
            flush_to_disk(path.parent)


def flush_to_disk(path: Path) -> None:
    """Wait until what was written to a file, or the names in a folder, would survive a power cut.

    Raises:
        OSError: it cannot be flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def partial_path(path: Path) -> Path:
    """Where to write aside what becomes ``path``: beside it, hidden, and another one every time.

    Machines that share a folder have equal process ids, so these would not do.
    """
    host = platform.node().replace("/", "-")[:_HOST_LETTERS]
    return path.with_name(f".{path.name}.{host}-{secrets.token_hex(8)}{PARTIAL}")


@contextmanager
def exclusive(path: Path, holder: str, wait: float = 1.0) -> Iterator[None]:
    """Hold a lock file for the duration; it frees itself when the process dies.

    Args:
        wait: seconds to wait for another holder; by default a little longer than a look takes.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=wait)
    try:
        lock.acquire()
    except Timeout:
        raise AlreadyRunningError(
            f"{holder} is already running in another process ({path})."
        ) from None
    try:
        yield
    finally:
        lock.release()


def holder_of(path: Path) -> int | None:
    """The process of this machine that holds the lock file; None where another machine's does.

    Linux tells who holds which lock; elsewhere the answer is None.
    """
    try:
        inode = str(path.stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if fields[1] != "FLOCK" or fields[5].rpartition(":")[2] != inode:
            continue
        with suppress(OSError):  # a file of another disk has the same number, or it has just ended
            held = Path("/proc", fields[4], "fd").iterdir()
            if any(descriptor.resolve() == path.resolve() for descriptor in held):
                return int(fields[4])
    return None


def is_held(path: Path) -> bool:
    """Whether a living process holds the lock file, or it is closed to us and may be held."""
    from filelock import FileLock, Timeout

    try:
        if not path.exists():
            return False
        with FileLock(path, timeout=0):
            return False
    except (Timeout, PermissionError):
        return True
