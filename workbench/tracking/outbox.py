"""Everything a run tells its tracker, kept in the run's own folder before anything is sent.

``RUN/tracking/`` holds ``journal.jsonl`` (every operation, in order), copies of the files it speaks
of, and ``mlflow.json`` (which MLflow run this is, and how much of the journal it has).
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
import shutil
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from workbench.errors import RequestError
from workbench.tracking.base import INTERNAL, InputData
from workbench.tracking.journal import Journal, read_backwards, read_operations
from workbench.tracking.store import redact

if TYPE_CHECKING:
    import PIL.Image

# The kinds whose content is a file; all others are rows.
FILE_KINDS = frozenset({"image", "artifact"})

# MLflow refuses anything else; refusing here names the caller's line in the traceback.
_ROW_NAME = re.compile(r"[/\w.\- :]{1,250}")
_IMAGE_NAME = re.compile(r"[a-zA-Z0-9_\-./ ]{1,150}")


_PROVENANCE = "provenance."


class Point(NamedTuple):
    """One measured value; ``step`` counts generated images, ``timestamp`` is ms since 1970."""

    key: str
    step: int
    value: float
    timestamp: int


def tracking_dir(run_dir: Path) -> Path:
    """Where a run keeps what it told its tracker."""
    return run_dir / "tracking"


def journal_path(run_dir: Path) -> Path:
    """The run's journal."""
    return tracking_dir(run_dir) / "journal.jsonl"


class Outbox:
    """Writes operations down, each (key, step) once over all resumes. Usable from any thread."""

    def __init__(self, run_dir: Path) -> None:
        self.root = tracking_dir(run_dir)
        self.journal = Journal(journal_path(run_dir))
        self._lock = threading.RLock()
        self._points: dict[str, set[int]] = {}
        self._images: dict[str, set[int]] = {}
        self._artifacts: dict[str, str] = {}
        self._first_tags: dict[str, str] = {}
        self._remember()

    def params(self, values: Mapping[str, str]) -> None:
        """Parameters of the run, written once: they are immutable.

        Raises:
            RequestError: a name that MLflow would refuse.
        """
        for key in values:
            _check_name("parameter", key, _ROW_NAME)
        self._append("params", {"values": dict(values)})

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags; the last value counts.

        Raises:
            RequestError: a name that MLflow would refuse.
        """
        for key in values:
            _check_name("tag", key, _ROW_NAME)
        if values:
            self._append("tags", {"values": dict(values)})

    def status(self, status: str, since: int | None = None) -> None:
        """The state of the run, from now on or since a time in ms since 1970."""
        self._append("status", {"status": status}, since)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Points that the run does not have yet. NaN and infinities are kept as they are.

        Raises:
            RequestError: a name that MLflow would refuse, or a negative step.
        """
        for key in values:
            _check_name("metric", key, _ROW_NAME)
        _check_step(step)
        with self._lock:
            fresh = {
                key: float(value)
                for key, value in values.items()
                if step not in self._points.get(key, ())
            }
            if fresh:
                encoded = {key: _encode(value) for key, value in fresh.items()}
                self._append("metrics", {"step": step, "values": encoded})
            for key in fresh:
                self._points.setdefault(key, set()).add(step)

    def image(self, key: str, image: PIL.Image.Image, step: int) -> None:
        """An image that the run does not have yet, saved as PNG under MLflow's own name for it.

        Raises:
            RequestError: a name that MLflow would refuse, or a negative step.
        """
        _check_name("image", key, _IMAGE_NAME)
        _check_step(step)
        with self._lock:
            if step in self._images.get(key, ()):
                return
            now = _now()
            # Drawn here and written down, not at each sending as MlflowClient.log_image does:
            # sending again then replaces the file instead of adding one.
            mark = uuid.uuid4()
            name = f"{key.replace('/', '~')}+step+{step}+timestamp+{now}+{mark}.png"
            target = self.root / "images" / name
            target.parent.mkdir(exist_ok=True)
            image.save(target)
            self._append("image", {"key": key, "step": step, "file": f"images/{name}"}, now)
            self._images.setdefault(key, set()).add(step)

    def artifact(self, path: Path, folder: str) -> None:
        """A copy of the file as it is now; nothing when the run has exactly this already.

        Raises:
            RequestError: no such file, or a folder that leaves the run's artifacts.
        """
        if not path.is_file():
            raise RequestError(f"Cannot track {path}: there is no such file.")
        if folder.startswith("/") or ".." in Path(folder).parts:
            raise RequestError(f"Artifact folder {folder!r} must stay inside the run.")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        target = f"{folder}/{path.name}"
        with self._lock:
            if self._artifacts.get(target) == digest:
                return
            copy = self.root / "files" / digest / path.name
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy.with_name(copy.name + ".new"))
                copy.with_name(copy.name + ".new").replace(copy)
            local = copy.relative_to(self.root).as_posix()
            self._append("artifact", {"file": local, "folder": folder, "digest": digest})
            self._artifacts[target] = digest

    def inputs(self, data: InputData) -> None:
        """A data set's description; its prompts become the artifact inputs/NAME.txt."""
        if data.prompts:
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", data.name)
            listing = self.root / "inputs" / f"{name}.txt"
            listing.parent.mkdir(exist_ok=True)
            listing.write_text("\n".join(data.prompts) + "\n", encoding="utf-8")
            self.artifact(listing, "inputs")
        body = {
            "name": data.name,
            "digest": data.digest,
            "rows": data.rows,
            "columns": dict(data.columns),
            "source": redact(data.source),
            "context": data.context,
        }
        self._append("inputs", body)

    def next_step(self, prefix: str) -> int:
        """One behind the last step of the metrics whose names start with ``prefix``."""
        with self._lock:
            steps = [max(s) for key, s in self._points.items() if key.startswith(prefix)]
        return max(steps, default=-1) + 1

    def later_provenance(self, provenance: Mapping[str, str]) -> dict[str, str]:
        """Tags that append what makes this attempt of a run; none if it is what made the last.

        The first attempt's are the run's own tags, and repeated as ``provenance.1``.
        """
        if not self._first_tags:  # killed before it said what made it
            return dict(provenance)
        own = {key: text for key, text in provenance.items() if not key.startswith(INTERNAL)}
        said = [text for key, text in self._first_tags.items() if key.startswith(_PROVENANCE)]
        known = said or [_as_json({key: self._first_tags.get(key) for key in own})]
        if known[-1] == _as_json(own):
            return {}
        texts = enumerate([*known, _as_json(own)], 1)
        return {f"{_PROVENANCE}{place}": text for place, text in texts if place > len(said)}

    def is_new(self) -> bool:
        """Whether nothing was ever written."""
        return next(read_operations(self.journal.path), None) is None

    def _append(self, kind: str, body: Mapping[str, object], now: int | None = None) -> None:
        self.journal.append(kind, _now() if now is None else now, body)

    def _remember(self) -> None:
        for operation in read_operations(self.journal.path):
            body = operation.body
            if operation.kind == "metrics":
                for key in body["values"]:
                    self._points.setdefault(key, set()).add(body["step"])
            elif operation.kind == "tags":
                for key, text in body["values"].items():
                    self._first_tags.setdefault(key, text)
            elif operation.kind == "image":
                self._images.setdefault(body["key"], set()).add(body["step"])
            elif operation.kind == "artifact":
                name = Path(body["file"]).name
                self._artifacts[f"{body['folder']}/{name}"] = body["digest"]


def read_points(run_dir: Path, keys: Collection[str] | None = None) -> list[Point]:
    """The run's points in the order they were logged, straight from its own folder.

    Works without MLflow, while the run is going on and while the store is out of reach.
    """
    return [
        Point(key, operation.body["step"], float(value), operation.time)
        for operation in read_operations(journal_path(run_dir))
        if operation.kind == "metrics"
        for key, value in operation.body["values"].items()
        if keys is None or key in keys
    ]


def last_status(run_dir: Path) -> str | None:
    """The state that was written down last; none before the first one."""
    states = (op for op in read_backwards(journal_path(run_dir)) if op.kind == "status")
    newest = next(states, None)
    return None if newest is None else str(newest.body["status"])


def _as_json(values: Mapping[str, str | None]) -> str:
    return json.dumps(values, sort_keys=True)


def _encode(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _check_name(kind: str, name: str, allowed: re.Pattern[str]) -> None:
    if not allowed.fullmatch(name) or posixpath.normpath(name) != name or name[0] in "./":
        raise RequestError(
            f"{kind.capitalize()} name {name!r} is not possible: letters, numbers and _ - . joined "
            "by single slashes."
        )


def _check_step(step: int) -> None:
    if step < 0:
        raise RequestError(f"A step counts images and cannot be negative (got {step}).")


def _now() -> int:
    return time.time_ns() // 1_000_000
