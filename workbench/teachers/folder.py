"""A saved pipeline's folder: checked before it is loaded, so that errors name the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from workbench.errors import RequestError
from workbench.hashing import file_sha256
from workbench.teachers.checks import check_prediction
from workbench.teachers.families import FAMILIES
from workbench.teachers.family import Family
from workbench.teachers.json_file import read_json

MODEL_INDEX = "model_index.json"
NOTES = "teacher.json"
SCHEDULER = "scheduler/scheduler_config.json"

_TRUSTED_LIBRARIES = ("diffusers", "transformers")
_CONFIGS = ("config.json", "scheduler_config.json", "tokenizer_config.json")
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_WEIGHTS = ".safetensors"
_INDEX = ".safetensors.index.json"
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TeacherNotes:
    """What a pipeline's own files do not hold, kept beside them in teacher.json.

    Attributes:
        call: arguments of the stock pipeline's call with which it behaves as the teacher does.
        origin: where the weights come from (recipe, seconds of training), for people.
    """

    call: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        content = {"call": dict(self.call), "origin": dict(self.origin)}
        (folder / NOTES).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> TeacherNotes:
        """The folder's notes, empty when it has none.

        Raises:
            RequestError: the file is damaged.
        """
        if not (folder / NOTES).exists():
            return TeacherNotes()
        content = read_json(folder / NOTES)
        return TeacherNotes(content.get("call", {}), content.get("origin", {}))


def family_of(model_index: Path) -> Family:
    """The family of the pipeline class that a model_index.json names.

    Raises:
        RequestError: damaged, or a class that is not supported; lists those that are.
    """
    return FAMILIES[str(read_json(model_index).get("_class_name"))]


def check_kind(folder: Path) -> Family:
    """The family of a pipeline folder, from its index and its scheduler's settings alone.

    Raises:
        RequestError: no index, a class that is not supported, a network that predicts no flow, or
            a component from a library that is not trusted.
    """
    index = folder / MODEL_INDEX
    entries = read_json(index)
    scheduler = folder / SCHEDULER
    if scheduler.is_file():
        check_prediction(read_json(scheduler), str(entries.get("_class_name")))
    family = family_of(index)
    for name, entry in entries.items():
        if isinstance(entry, list) and entry[0] not in (None, *_TRUSTED_LIBRARIES):
            raise RequestError(
                f"{index} takes the {name} from {entry[0]!r}; only classes of diffusers and "
                "transformers are loaded, because others would run code of that folder."
            )
    return family


def check_folder(folder: Path) -> Family:
    """The family of a pipeline folder, after checking that every component is complete.

    Weights must be safetensors, because other formats can run code when they are read; only
    classes of diffusers and transformers are accepted, for the same reason.

    Raises:
        RequestError: as :func:`check_kind`, or a file that is missing or damaged; names it.
    """
    family = check_kind(folder)
    index = folder / MODEL_INDEX
    entries = read_json(index)
    for name in family.components:
        _, kind = (*(entries.get(name) or ()), None, None)[:2]
        if kind is None:
            raise RequestError(f"{index} names no {name}; a {family.pipeline_class} needs one.")
        _check_component(folder / name)
    return family


def _check_component(component: Path) -> None:
    if not component.is_dir():
        raise RequestError(f"The teacher folder {component.parent} has no folder {component.name}.")
    config = next((name for name in _CONFIGS if (component / name).exists()), None)
    if config is None:
        raise RequestError(f"{component} has none of {', '.join(_CONFIGS)}.")
    read_json(component / config)
    if config == "tokenizer_config.json":
        present = [name for name in _VOCABULARIES if (component / name).exists()]
        if not present:
            raise RequestError(f"{component} has none of {', '.join(_VOCABULARIES)}.")
        for name in present:
            if name.endswith(".json"):
                read_json(component / name)
    elif config == "config.json":
        _check_weights(component)


def _check_weights(component: Path) -> None:
    for index in component.glob(f"*{_INDEX}"):
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (component / shard).exists():
                raise RequestError(f"The teacher's file {component / shard} is missing.")
    files = sorted(component.glob(f"*{_WEIGHTS}"))
    if not files:
        raise RequestError(
            f"{component} has no {_WEIGHTS} file. Other weight formats are not read, because "
            "they can run code; convert them with save_pretrained(safe_serialization=True)."
        )
    for file in files:
        stored_keys(file)


def stored_keys(file: Path) -> set[str]:
    """Names of the tensors in a safetensors file; reads its header alone.

    Raises:
        RequestError: the header is damaged or does not fit the file's length.
    """
    with _opened(file) as content:
        return set(content.keys())


def stored_numbers(component: Path) -> Counter[str]:
    """How many numbers of each type (``F32``, ``BF16``, ...) a component's weight files hold.

    Reads their headers alone. Variants (``model.fp16.safetensors``) do not count: nothing loads
    them.

    Raises:
        RequestError: as :func:`stored_keys`.
    """
    numbers = Counter[str]()
    for file in component.glob(f"*{_WEIGHTS}"):
        if file.name.count(".") > 1:
            continue
        with _opened(file) as content:
            for tensor in map(content.get_slice, content.keys()):
                numbers[tensor.get_dtype()] += prod(tensor.get_shape())
    return numbers


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as content:
            yield content
    except (OSError, SafetensorError) as error:
        raise RequestError(f"The teacher's file {file} is damaged: {error}.") from None


def content_fingerprint(folder: Path, components: tuple[str, ...]) -> str:
    """Short hash of everything that is loaded from a pipeline folder, weights included.

    In the hub's cache a weight file links to one named by its SHA-256, which is used as it is.
    """
    return _fingerprint(folder, [folder / MODEL_INDEX, folder / NOTES, *_files(folder, components)])


def component_fingerprint(folder: Path, components: tuple[str, ...]) -> str:
    """Short hash of some components' files alone."""
    return _fingerprint(folder, _files(folder, components))


def _files(folder: Path, components: tuple[str, ...]) -> list[Path]:
    return [
        path for name in components for path in sorted((folder / name).rglob("*")) if path.is_file()
    ]


def _fingerprint(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        if path.exists():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{_file_hash(path)}\0".encode())
    return digest.hexdigest()[:16]


def _file_hash(path: Path) -> str:
    if path.name == NOTES:  # how long the build took changes nothing
        call = json.dumps(read_json(path).get("call"), sort_keys=True)
        return hashlib.sha256(call.encode()).hexdigest()
    blob = path.resolve().name
    if path.is_symlink() and _BLOB.fullmatch(blob):
        return blob
    return file_sha256(path)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep diffusers' and transformers' progress bars and notices off the terminal."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    modules: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in modules]
    for module in modules:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module, (verbosity, bars) in zip(modules, before, strict=True):
            module.set_verbosity(verbosity)
            if bars:
                module.enable_progress_bar()
