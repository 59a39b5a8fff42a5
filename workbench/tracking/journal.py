"""An append-only file of JSON lines that survives kill -9."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Operation:
    """One line: what to do, when it was asked for (ms since 1970), where its line ends (byte)."""

    kind: str
    time: int
    body: Mapping[str, Any]
    end: int


class Journal:
    """The writing side. One process at a time; any thread of it.

    Opening drops a torn last line. A disk that is full or fails raises nothing: unwritten bytes
    stay in memory, one warning is logged, and the next call tries again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        end = whole_lines_end(path)
        if end < os.fstat(self._file).st_size:
            LOG.warning("The last line of %s was torn by a crash; it is dropped.", path)
            os.ftruncate(self._file, end)
        self._unwritten = bytearray()
        self._warned = self._closed = False
        # Re-entrant: a signal handler of the same thread may end the run in the middle of a line.
        self._lock = threading.RLock()

    def append(self, kind: str, time: int, body: Mapping[str, Any]) -> None:
        """Adds one line. It is with the operating system, so safe from kill -9, on return."""
        record = {"kind": kind, "time": time, **body}
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path} is closed: the run was finished before.")
            self._unwritten += line.encode() + b"\n"
            self._write()

    def secure(self) -> bool:
        """Brings every line to the disk, so safe from power loss; false if that is impossible."""
        try:
            with self._lock:
                if self._closed:
                    return False
                written = self._write()
                copy = os.dup(self._file)
            # Outside the lock: a slow disk must not keep the training from appending.
            try:
                os.fsync(copy)
            finally:
                os.close(copy)
        except OSError as error:
            self._warn(error)
            return False
        self._warned = not written
        return written

    def close(self) -> int:
        """Secures and closes; appending afterwards is an error of the caller.

        Returns:
            How many lines never found room on the disk and are lost.
        """
        with self._lock:
            if not self._closed:
                self.secure()
                self._closed = True
                os.close(self._file)
            return self._unwritten.count(b"\n")

    def _write(self) -> bool:
        try:
            while self._unwritten:
                del self._unwritten[: os.write(self._file, self._unwritten)]
        except OSError as error:
            self._warn(error)
            return False
        return True

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            LOG.warning("Cannot write %s: %s. It is tried again.", self.path, error.strerror)
        self._warned = True


def read_operations(path: Path, start: int = 0) -> Iterator[Operation]:
    """Whole lines from byte ``start`` on, also while another process writes.

    A line that cannot be read (a damaged disk) is skipped with a warning.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            operation = _operation(line, end)
            if operation is None:
                LOG.warning("%s: the line that ends at byte %d is unreadable; skipped.", path, end)
                continue
            yield operation


def read_backwards(path: Path) -> Iterator[Operation]:
    """Whole lines from the last to the first; the newest of a long journal costs one block.

    A line that cannot be read is left out.
    """
    if not path.exists():
        return
    end = whole_lines_end(path)
    with path.open("rb") as file:
        position, rest = end, b""
        while position > 0:
            start = max(0, position - _BLOCK)
            file.seek(start)
            lines = (file.read(position - start) + rest).splitlines(keepends=True)
            # The first line may begin in an earlier block.
            rest = lines.pop(0) if start > 0 else b""
            for line in reversed(lines):
                operation = _operation(line, end)
                end -= len(line)
                if operation is not None:
                    yield operation
            position = start


def whole_lines_end(path: Path) -> int:
    """Size of the file without a torn last line, in bytes."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        while position > 0:
            start = max(0, position - _BLOCK)
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            position = start
    return 0


def _operation(line: bytes, end: int) -> Operation | None:
    try:
        record = json.loads(line)
        return Operation(record.pop("kind"), record.pop("time"), record, end)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
