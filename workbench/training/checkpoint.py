"""Checkpoints: written aside and renamed, verified before use, loadable at another rank count.

A checkpoint is a folder of torch.distributed.checkpoint files plus ``manifest.json``, which is
written last and lists every file with its size: a folder without it, or with a file cut short,
is not a checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from workbench.errors import MachineError, WorkbenchError
from workbench.training.parallel import Ranks
from workbench.training.safe_metadata import TensorReader

FORMAT = 1
MANIFEST = "manifest.json"


class CheckpointError(WorkbenchError):
    """A checkpoint could not be written or read; what was there before is untouched."""


class UnwrittenCheckpointError(CheckpointError, MachineError):
    """A checkpoint could not be written here."""


@dataclass(frozen=True)
class Stateful:
    """What a checkpoint holds: modules by name, and optimisers with the module they train."""

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


def save_checkpoint(
    folder: Path, stateful: Stateful, progress: Mapping[str, Any], ranks: Ranks
) -> Path:
    """Write the checkpoint of ``progress["nimg"]``; it appears whole or not at all.

    Raises:
        UnwrittenCheckpointError: on every rank, if any rank could not write (a full disk, say).
    """
    final = checkpoint_path(folder, int(progress["nimg"]))
    partial = folder / f".partial-{final.name}"
    problem = ranks.from_main(_prepare(folder, partial) if ranks.is_main else "")
    if problem:
        raise UnwrittenCheckpointError(f"Could not write checkpoint {final}: {problem}")
    try:
        with _single_process_is_meant():
            save(stateful.state(), checkpoint_id=partial, no_dist=ranks.world == 1)
        if ranks.is_main:
            _write_manifest(partial, progress)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync_folder(folder)
    except (OSError, CheckpointException, RuntimeError) as error:
        problem = _first_line(error)
    problem = next((text for text in ranks.gather(problem) if text), "")
    if problem:
        if ranks.is_main:
            shutil.rmtree(partial, ignore_errors=True)
        raise UnwrittenCheckpointError(f"Could not write checkpoint {final}: {problem}")
    return final


def load_checkpoint(path: Path, stateful: Stateful) -> dict[str, Any]:
    """Restore everything from one verified checkpoint and return its progress record.

    Raises:
        CheckpointError: it holds other tensors than these, or cannot be read.
    """
    state = stateful.state()
    reader = TensorReader(path)
    try:
        reader.read_metadata()  # refuses here: torch's loader would log a traceback before
        with _single_process_is_meant():
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
        last: none of more images than this.
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


def prune_checkpoints(folder: Path, keep: int, *needed: int | None) -> None:
    """Delete all but the last ``keep`` whole checkpoints and those of ``needed`` images."""
    whole = [path for path in sorted(folder.glob("nimg-*")) if damage(path) is None]
    protected = set(whole[-keep:])
    protected.update(checkpoint_path(folder, nimg) for nimg in needed if nimg is not None)
    for path in folder.glob("nimg-*"):
        if path not in protected:
            shutil.rmtree(path)
    for leftover in folder.glob(".partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _prepare(folder: Path, partial: Path) -> str:
    """Make room for a partial checkpoint; what went wrong, or nothing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        return _first_line(error)
    return ""


def _write_manifest(partial: Path, progress: Mapping[str, Any]) -> None:
    files = {file.name: file.stat().st_size for file in sorted(partial.iterdir())}
    record = {"format": FORMAT, "torch": torch.__version__, "progress": progress, "files": files}
    with (partial / MANIFEST).open("w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _single_process_is_meant() -> Iterator[None]:
    """torch warns at every checkpoint of one process, even where that was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).strip() or type(error).__name__).splitlines()[0]
