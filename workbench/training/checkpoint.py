"""Checkpoints: written aside and renamed, verified before use, loadable at another rank count.

A checkpoint is a folder of torch.distributed.checkpoint files plus ``manifest.json``, which is
written last and lists every file with its size: a folder without it, or with a file cut short,
is not a checkpoint. One that was kept for its evaluation's sake holds the averaged generator alone.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from workbench.errors import MachineError, WorkbenchError
from workbench.training.parallel import Group
from workbench.training.safe_metadata import TensorReader
from workbench.workspace import flush_to_disk, write_json

FORMAT = 1
MANIFEST = "manifest.json"

BEST = "best"
"""The folder of the best evaluation's average, beside the checkpoints."""


class CheckpointError(WorkbenchError):
    """A checkpoint could not be written or read; what was there before is untouched."""


class UnwrittenCheckpointError(CheckpointError, MachineError):
    """A checkpoint could not be written here."""


@dataclass(frozen=True)
class Stateful:
    """What a checkpoint holds: modules by name, and optimizers with the module they train."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def state(self) -> dict[str, Any]:
        modules = {name: get_model_state_dict(module) for name, module in self.modules.items()}
        moments = {
            name: get_optimizer_state_dict(self.modules[name], optimizer)["state"]
            for name, optimizer in self.optimizers.items()
        }
        return {"modules": modules, "optimizers": moments}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules.items():
            set_model_state_dict(module, state["modules"][name])
        for name, optimizer in self.optimizers.items():
            module = self.modules[name]
            # Learning rates and betas come from the configuration, only moments from the file.
            groups = get_optimizer_state_dict(module, optimizer)["param_groups"]
            moments = {"state": state["optimizers"][name], "param_groups": groups}
            set_optimizer_state_dict(module, optimizer, optim_state_dict=moments)


def checkpoint_path(folder: Path, nimg: int) -> Path:
    return folder / f"nimg-{nimg:012d}"


def average_path(folder: Path, nimg: int) -> Path:
    """Where the averaged generator alone is kept, if its evaluation was the best."""
    return checkpoint_path(folder / BEST, nimg)


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    progress: Mapping[str, Any],
    group: Group | None = None,
) -> Path:
    """Write the checkpoint of ``progress["nimg"]``; the folder appears complete or not at all.

    Args:
        state: as :meth:`Stateful.state` makes it; nobody may change its tensors meanwhile.
        group: the ranks that write together, over the CPU; nothing else may use it meanwhile.
            None: this process alone.

    Raises:
        UnwrittenCheckpointError: on every rank, if any rank could not write (a full disk, say).
    """
    writer = _FolderWriter(checkpoint_path(folder, int(progress["nimg"])), progress)
    _ignore_one_process()
    try:
        save(dict(state), storage_writer=writer, process_group=group, no_dist=group is None)
    except (OSError, CheckpointException, RuntimeError) as error:
        if writer.is_main:
            shutil.rmtree(writer.partial, ignore_errors=True)
        raise UnwrittenCheckpointError(
            f"Could not write checkpoint {writer.final}: {_first_line(error)}"
        ) from error
    return writer.final


class _FolderWriter(FileSystemWriter):
    """Writes into a hidden folder, which takes its name once every rank's files are in it.

    torch calls ``finish`` on one rank, when all have written, and tells all how it went.
    """

    def __init__(self, final: Path, progress: Mapping[str, Any]) -> None:
        self.final, self.progress, self.is_main = final, progress, False
        self.partial = final.with_name(f".partial-{final.name}")
        super().__init__(self.partial)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        self.is_main = is_coordinator
        if self.is_main:
            shutil.rmtree(self.partial, ignore_errors=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        super().finish(metadata, results)
        _write_manifest(self.partial, self.progress)
        flush_to_disk(self.partial)
        shutil.rmtree(self.final, ignore_errors=True)
        self.partial.rename(self.final)
        flush_to_disk(self.final.parent)


def load_checkpoint(path: Path, stateful: Stateful) -> dict[str, Any]:
    """Restore everything from one verified checkpoint and return its progress record.

    Raises:
        CheckpointError: it holds other tensors than these, or cannot be read.
    """
    state = stateful.state()
    reader = TensorReader(path)
    _ignore_one_process()
    try:
        reader.read_metadata()  # refuses here: torch's loader would log a traceback before
        load(state, storage_reader=reader, no_dist=not torch.distributed.is_initialized())
    except (OSError, CheckpointException, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(f"Cannot restore checkpoint {path}: {_first_line(error)}") from error
    stateful.restore(state)
    progress: dict[str, Any] = read_manifest(path)["progress"]
    return progress


def load_modules(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Restore only some modules, for inference."""
    load_checkpoint(path, Stateful(modules, {}))


def latest_checkpoint(
    folder: Path, warn: Callable[[str], None], last: int | None = None
) -> Path | None:
    """The newest whole checkpoint; each newer one that is damaged is reported to ``warn``.

    Args:
        last: ignore checkpoints of more images than this.
    """
    paths = sorted(folder.glob("nimg-*"), reverse=True)
    if last is not None:
        paths = [path for path in paths if path <= checkpoint_path(folder, last)]
    for index, path in enumerate(paths):
        problem = damage(path)
        if problem is None:
            return path
        way_out = "using the one before it" if index + 1 < len(paths) else "starting from 0 kimg"
        warn(f"Checkpoint {path.name} is damaged ({problem}); {way_out}.")
    return None


def damage(path: Path) -> str | None:
    """Why a folder is not a whole checkpoint, or None if it is one."""
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError) as error:
        return f"no readable {MANIFEST}: {_first_line(error)}"
    if manifest.get("format") != FORMAT:
        return f"format {manifest.get('format')}, expected {FORMAT}"
    for name, size in manifest["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def average_at(folder: Path, nimg: int) -> Path | None:
    """The folder with the averaged generator at exactly ``nimg`` images, if it is complete."""
    places = (average_path(folder, nimg), checkpoint_path(folder, nimg))
    return next((path for path in places if path.is_dir() and damage(path) is None), None)


def kept_averages(folder: Path) -> list[int]:
    """The image counts of all averaged generators that are complete."""
    paths = (*folder.glob("nimg-*"), *folder.glob(f"{BEST}/nimg-*"))
    return sorted({int(path.name.removeprefix("nimg-")) for path in paths if damage(path) is None})


def prune_checkpoints(folder: Path, keep: int, good: int | None, best: int | None) -> None:
    """Delete all but the last ``keep`` whole checkpoints, and what these and the run refer to.

    Args:
        good: the newest whole one of at most so many images stays.
        best: the average of so many images stays, as does the best one of every checkpoint that
            stays: from there a run may go on.
    """
    whole = [path for path in sorted(folder.glob("nimg-*")) if damage(path) is None]
    kept = set(whole[-keep:])
    if good is not None:
        kept.update([path for path in whole if path <= checkpoint_path(folder, good)][-1:])
    bests = {best, *(read_manifest(path)["progress"].get("best_nimg") for path in kept)}
    averages = (average_at(folder, nimg) for nimg in bests if nimg is not None)
    kept.update(path for path in averages if path is not None)
    for place in (folder, folder / BEST):
        for path in place.glob("nimg-*"):
            if path not in kept:
                shutil.rmtree(path)
        for leftover in place.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _write_manifest(partial: Path, progress: Mapping[str, Any]) -> None:
    files = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
    record = {"format": FORMAT, "torch": torch.__version__, "progress": progress, "files": files}
    write_json(partial / MANIFEST, record)


def _ignore_one_process() -> None:
    """Silence torch's warning at every checkpoint of a single process, which is intended here.

    Permanently: a temporary filter would be undone while another thread relies on it.
    """
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]
