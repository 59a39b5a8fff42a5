"""What the workspace keeps to be quick, and whether a run's settings name it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError
from workbench.training.run_folder import RunFolder, run_folder
from workbench.workspace import Workspace, is_held

if TYPE_CHECKING:
    from workbench.training.config import RunConfig

STUDY_FILE = "study.json"
"""Beside the logs of a study's workers, in the place of a run's settings."""


@dataclass(frozen=True)
class Cache:
    """A folder that can be made again, why it may go, and the lock of whoever writes there."""

    path: Path
    reason: str
    lock: Path


def unnamed_caches(workspace: Workspace, runs: Sequence[RunFolder]) -> Iterator[Cache]:
    """Encoded prompts and latents that no run's settings name, and left-overs of references.

    Where a run's settings cannot be read, or its teacher is not on this machine, nobody can say
    what it names, and all of that kind stays. So do all latents while a run learns from pairs.
    """
    texts = _folders(workspace.cache / "text")
    latents = _folders(workspace.cache / "latents")
    references = _folders(workspace.root / "references")
    if not (texts or latents or references):
        return
    try:
        configs = {run.path: run.config() for run in runs} | _submitted(workspace)
    except RequestError:
        return
    named = _named_texts(workspace, configs) if texts else None
    if named is not None:
        yield from _unheld(texts, named, "no run's settings name this text encoder")
    if not any(config.data for config in configs.values()):
        yield from _unheld(latents, set(), "no run learns from pairs of images and prompts")
    yield from _of_references(workspace, references)


def _submitted(workspace: Workspace) -> dict[Path, RunConfig]:
    """Folder -> settings of jobs that may wait in a queue; the folder need not be there yet."""
    from workbench.training.config import load_config

    files = [file for file in (workspace.root / "jobs").glob("*/*.json") if file.name != STUDY_FILE]
    configs = [load_config(file) for file in sorted(files)]
    return {run_folder(workspace, config).path: config for config in configs}


def _folders(place: Path) -> list[Path]:
    return sorted(path for path in place.glob("[!.]*") if path.is_dir())


def _unheld(folders: Sequence[Path], named: set[str], reason: str) -> Iterator[Cache]:
    for folder in folders:
        lock = folder / ".lock"
        if folder.name not in named and not is_held(lock):
            yield Cache(folder, reason, lock)


def _named_texts(workspace: Workspace, configs: Mapping[Path, RunConfig]) -> set[str] | None:
    """The stores of encoded prompts that the runs use; None where that cannot be known."""
    from workbench.students.text import find_run_teacher
    from workbench.teachers.analytic import is_analytic
    from workbench.teachers.catalog import teacher_call
    from workbench.teachers.text_store import text_identity

    named = set()
    for path, config in configs.items():
        try:
            revision = RunFolder(path).teacher_revision()
            folder = find_run_teacher(config, workspace, revision, _find_here)
            if not is_analytic(folder):
                call = teacher_call(config.teacher, config.teacher_call)
                named.add(text_identity(folder, call=call))
        except (RequestError, OSError, ValueError):
            return None
    return named


def _find_here(reference: str, teachers: Path) -> Path:
    """As :func:`find_teacher`, without building or downloading."""
    from workbench.teachers.catalog import KNOWN_TEACHERS, built_folder
    from workbench.teachers.hub import cached_snapshot

    local = Path(reference).expanduser()
    spec = KNOWN_TEACHERS.get(reference)
    if spec is None and local.is_dir():
        return local
    hub_id = reference if spec is None else spec.hub_id
    folder = built_folder(reference, teachers) if hub_id is None else cached_snapshot(hub_id)
    if folder is None:
        raise RequestError(f"The teacher {reference} is not here.")
    return folder


def _of_references(workspace: Workspace, folders: Sequence[Path]) -> Iterator[Cache]:
    """What built references keep a second time; they themselves are a person's, and stay."""
    from workbench.evaluation.feature_cache import FeatureCache
    from workbench.evaluation.references import BuiltReference, is_reference

    for folder in filter(is_reference, folders):
        lock = folder.with_name(f".{folder.name}.lock")
        hash_ = BuiltReference(folder).record.images_hash
        seen = FeatureCache(workspace.cache / "features", {"images": hash_}).folder
        if seen.is_dir() and not is_held(lock):
            yield Cache(
                seen, f"the reference {folder.name} is built, and keeps what it needs", lock
            )
