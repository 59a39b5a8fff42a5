"""Where the networks behind the metrics come from: files that are known by name.

Looked up in this order: what was given (``--weights NAME=PATH``: a path, or the name of a network
of the package), what workbench.toml names, ``<workspace>/weights``, and, where the checksum is
known beforehand, a download into that folder. Whatever was found, its own hash is what enters a
score's fingerprint.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError, WorkbenchError, nearest_name, unknown_name
from workbench.evaluation.networks.known import KNOWN, KnownWeights
from workbench.hashing import file_sha256
from workbench.pretrained import bundled_folder, bundled_names, checked_hash
from workbench.teachers._torchvision import prepare_torchvision
from workbench.teachers.hub import hub_connection_error, one_line
from workbench.user_config import FILE_NAME, find_user_config, load_user_config
from workbench.workspace import flush_to_disk, write_json

if TYPE_CHECKING:
    import torch

_PIN = ".pin.json"


@dataclass(frozen=True)
class LocalWeights:
    """Weights that are here: ``sha256`` is of the file, or of a folder's files and their names."""

    known: KnownWeights
    path: Path
    sha256: str


class WeightFiles:
    """The weights of one workspace.

    Args:
        folder: ``<workspace>/weights``.
        given: name to path, from ``--weights NAME=PATH``; or to the name of a network of the
            package. What a person points to is used as it is, published or not: its hash tells
            the scores apart.
        known: the catalogue.

    Raises:
        RequestError: a given name that no network has.
    """

    def __init__(
        self,
        folder: Path,
        given: Mapping[str, Path] | None = None,
        known: Mapping[str, KnownWeights] = KNOWN,
    ) -> None:
        self.folder, self.given, self.known = folder, dict(given or {}), known
        self._found: set[str] = set()
        for name in self.given:
            if name not in known:
                raise unknown_name("weights", name, known)

    def find(self, name: str, *, download: bool = True) -> LocalWeights:
        """The weights of that name, downloaded if need be and allowed.

        Raises:
            RequestError: unknown name; nowhere to be found (says size, checksum, source and the
                flag); not the published file; or not the file that the first use pinned.
        """
        if name not in self.known:
            raise unknown_name("weights", name, self.known)
        known = self.known[name]
        self._found.add(name)
        named = {**configured_weights(), **self.given}
        if name in named:
            where = "--weights" if name in self.given else f"{FILE_NAME}: weights"
            return _pointed_to(known, named[name], where)
        path = self.folder / known.file
        if not path.exists():
            if not download:
                raise RequestError(missing_message(known, path))
            self._download(known, path)
        found = pinned_hash(path)
        if known.sha256 not in (None, found):
            raise RequestError(
                f"{path} is not {known.content}: its SHA-256 is {found}, not {known.sha256}. "
                f"Delete it, or point to it with --weights {name}={path} if it is meant."
            )
        return LocalWeights(known, path, found)

    def check_all_used(self) -> None:
        """Refuse a given file that nobody has looked for: it would decide nothing.

        Raises:
            RequestError: names it, and the weights that are in use.
        """
        unused = sorted(set(self.given) - self._found)
        if unused:
            raise RequestError(
                f"--weights {unused[0]}={self.given[unused[0]]} would not be used: what was asked "
                f"for needs the weights of {', '.join(sorted(self._found)) or 'no network'}."
            )

    def _download(self, known: KnownWeights, path: Path) -> None:
        if known.url is None or known.size is None or known.sha256 is None:
            raise RequestError(missing_message(known, path))
        try:
            fetch(known.url, path, known.size, known.sha256)
        except (OSError, hub_connection_error(), WorkbenchError) as error:
            raise RequestError(
                f"{missing_message(known, path)} The download failed: {one_line(error)}"
            ) from error


def _pointed_to(known: KnownWeights, value: Path, where: str) -> LocalWeights:
    """What a person points to: a network of the package by its name, or a file or folder."""
    if (folder := bundled_folder(value)) is not None:
        return LocalWeights(known, folder, checked_hash(folder))
    path = value.expanduser()
    if not path.exists():
        near = nearest_name(path.name, bundled_names())
        raise RequestError(
            f"{where} {known.name}={path}: there is no such file or folder, and no network of "
            f"that name in the package ({', '.join(bundled_names())}){near}"
        )
    return LocalWeights(known, path, pinned_hash(path))


def configured_weights() -> dict[str, Path]:
    """Name to path, from workbench.toml.

    Raises:
        RequestError: a name that no network has, or the file is wrong.
    """
    found = load_user_config().weights
    for name in found:
        if name not in KNOWN:
            raise unknown_name(f"weights in {find_user_config()}", name, KNOWN)
    return found


def fetch(url: str, path: Path, size: int, sha256: str) -> None:
    """Download a file with the hub's client, which tries again and resumes what was cut off.

    ``path`` is only ever the whole, checked file; ``path.part`` keeps what a broken connection
    left. One process downloads, others wait for it.

    Args:
        size: bytes.
        sha256: checksum, in hexadecimal.

    Raises:
        OSError: the address does not answer (or the client's own error), or it sent less.
        WorkbenchError: what came is not the file.
    """
    from filelock import FileLock
    from huggingface_hub.file_download import http_get

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with partial.open("ab") as file:
            if file.tell() > size:
                file.truncate(0)
            http_get(url, file, resume_size=file.tell(), expected_size=size)
        if (found := file_sha256(partial)) != sha256:
            partial.unlink()
            raise WorkbenchError(f"{url} sent another file (SHA-256 {found}).")
        flush_to_disk(partial)
        partial.replace(path)


def missing_message(known: KnownWeights, path: Path) -> str:
    """What is missing, how to recognise it, where it comes from and the flag that points to it."""
    size = f"{known.size:,} bytes" if known.size else "size not known beforehand"
    checksum = f"SHA-256 {known.sha256}" if known.sha256 else "pinned by its own SHA-256 when used"
    return (
        f"The weights {known.name!r} are missing: {known.content} ({path.name}, {size}, "
        f"{checksum}), needed by {', '.join(known.needed_by)}. Get them from {known.source} and "
        f"put them at {path}, or point to them: --weights {known.name}=PATH of evaluate, "
        f"--set evaluation.weights.{known.name}=PATH of a run."
    )


def pinned_hash(path: Path) -> str:
    """SHA-256 of a file or folder, remembered beside it.

    Unchanged size and time save the reading; other content under a pinned name is refused.

    Raises:
        RequestError: the content is not what the first use found.
    """
    files = _files(path)
    state = {
        "size": sum(file.stat().st_size for file in files),
        "mtime_ns": max((file.stat().st_mtime_ns for file in files), default=0),
    }
    pin = path.with_name(path.name + _PIN)
    known = _read_pin(pin)
    if known is not None and {key: known[key] for key in state} == state:
        return str(known["sha256"])
    found = _hash(path, files)
    if known is not None and known["sha256"] != found:
        raise RequestError(
            f"{path} has changed since its first use: SHA-256 {found}, not {known['sha256']}. "
            f"If that is meant, delete {pin}."
        )
    try:
        write_json(pin, {"sha256": found, **state})
    except OSError:
        return found  # a folder that is closed to us: read again next time
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    below = ((file, file.relative_to(path).parts) for file in path.rglob("*") if file.is_file())
    return sorted(file for file, parts in below if not any(part[0] == "." for part in parts))


def _hash(path: Path, files: list[Path]) -> str:
    if path.is_file():
        return file_sha256(path)
    listed = [f"{file_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(listed).encode()).hexdigest()


def _read_pin(pin: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(pin.read_text(encoding="utf-8"))
        return {key: content[key] for key in ("sha256", "size", "mtime_ns")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def reading(weights: LocalWeights) -> Iterator[None]:
    """Turns whatever the libraries raise on a wrong or damaged file into one line.

    Raises:
        RequestError: the file is not what its name says.
    """
    from safetensors import SafetensorError

    try:
        yield
    except WorkbenchError:
        raise
    except (
        OSError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{weights.path} cannot be read as {weights.known.content} "
            f"({type(error).__name__}: {reason})."
        ) from error


def load_torchscript(path: Path, device: torch.device) -> Any:
    """A torchscript archive on a device; it holds code of torch's own language, not pickles."""
    import torch

    load: Any = torch.jit.load  # untyped in torch
    return load(str(path), map_location=device)


def metrics_package(name: str) -> Any:
    """open_clip or clean-fid, or a module of theirs, with a torchvision that imports beside this
    torch."""
    prepare_torchvision()
    return importlib.import_module(name)
