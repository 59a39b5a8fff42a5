"""One run's checkpoints: written in the background, pruned and found again, on all ranks alike.

Training waits only while tensors are copied to the CPU, where the copy keeps as much memory as this
rank's part of a checkpoint. At most one write is in flight; looking for checkpoints waits for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.utils._pytree import tree_leaves

from workbench.errors import RequestError
from workbench.sizes import as_text
from workbench.training.checkpoint import (
    BEST,
    CheckpointError,
    Stateful,
    UnwrittenCheckpointError,
    average_at,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_manifest,
    save_checkpoint,
)
from workbench.training.events import Listener
from workbench.training.networks import AVERAGE
from workbench.training.parallel import Group, Ranks, cpu_group
from workbench.training.state import TrainingState

_SMALL = 64 * 2**20
"""Bytes up to which one process waits for a write, which costs less than to go on beside it."""

_SLOWEST_WRITE = timedelta(hours=6)
"""How long a rank waits for the files of the others."""


@dataclass(frozen=True)
class _Write:
    """One write in flight: of the whole state, of the best average alone, or of both."""

    nimg: int
    whole: bool
    done: Future[str]


class CheckpointFolder:
    """The checkpoints of one recipe.

    Args:
        path: None keeps nothing.
        identity: identifies recipe, teacher and prompts; checkpoints of another are refused.
        keep: how many of the newest checkpoints stay.
        keep_good: whether the one that a roll-back would return to stays too.
    """

    def __init__(
        self,
        path: Path | None,
        identity: str,
        ranks: Ranks,
        listener: Listener,
        keep: int,
        keep_good: bool,
    ) -> None:
        self.path, self.identity, self.ranks, self.listener = path, identity, ranks, listener
        self.keep, self.keep_good = keep, keep_good
        self._flight: _Write | None = None
        self._there: int | None = None  # images of the last whole one that is written, or read
        self._thread = ThreadPoolExecutor(1, "checkpoint")

    def newest(self, nimg: int, last: int | None = None) -> Path | None:
        """The newest complete checkpoint of at most ``last`` images; warns of damaged ones."""
        self.finish()
        found: Path | None = None
        if self.path is not None and self.ranks.is_main:
            found = latest_checkpoint(
                self.path, lambda text: self.listener.on_warning(nimg, text), last
            )
        return self.ranks.broadcast(found)

    def average_at(self, wanted: int) -> Path | None:
        """The folder with the average at exactly ``wanted`` images, if it exists; on every rank."""
        self.finish()
        found: Path | None = None
        if self.path is not None and self.ranks.is_main:
            found = average_at(self.path, wanted)
        return self.ranks.broadcast(found)

    def restore(self, found: Path, stateful: Stateful) -> TrainingState:
        """Restore everything from a checkpoint; returns its training state.

        Raises:
            RequestError: it was made by another recipe or from another teacher.
        """
        written_by = read_manifest(found)["progress"].get("identity")
        if written_by != self.identity:
            raise RequestError(
                f"The checkpoints in {self.path} belong to another recipe or teacher, or to "
                f"other prompts ({written_by}, not {self.identity}). Use another folder, or start "
                "afresh."
            )
        state = TrainingState.of(load_checkpoint(found, stateful))
        self._there = state.nimg
        return state

    def tell_sizes(self, nimg: int, stateful: Stateful) -> None:
        """Report how much space checkpoints will take, and warn if there is not enough."""
        if self.path is None or not self.ranks.is_main:
            return
        state = stateful.state()
        one, average = _size(state), _size(_average(state))
        count = self.keep + self.keep_good + 1
        free = _free(self.path)
        self.listener.on_note(
            f"A checkpoint takes {as_text(one)}; up to {self.keep} are kept, beside the one that "
            f"is being written and the best average: {as_text(count * one + average)}. "
            f"{as_text(free)} are free."
        )
        more = (count - len(list(self.path.glob("nimg-*")))) * one + average
        if more > free:
            self.listener.on_warning(
                nimg,
                f"Checkpoints will take {as_text(more)} more, but {self.path} has {as_text(free)} "
                f"left. Make room, or lower schedule.keep_checkpoints ({self.keep}).",
            )

    def write(
        self,
        state: TrainingState,
        stateful: Stateful,
        *,
        must: bool = False,
        whole: bool = True,
        best: bool = False,
    ) -> None:
        """Begin to write a checkpoint; returns once ``state`` and the tensors may change again.

        A failure is a warning, now or later, unless the checkpoint ``must`` be written.

        Args:
            whole: a checkpoint to go on from.
            best: the average, as that of the best evaluation so far.

        Raises:
            CheckpointError: it must, and could not.
        """
        if self.path is None:
            return
        self.finish()
        if not best and self.ranks.broadcast(self._there == state.nimg):
            return  # nothing has happened since
        if whole:
            state.stability.checkpointing(state.nimg)
        wanted = stateful if whole else Stateful({AVERAGE: stateful.modules[AVERAGE]}, {})
        held = wanted.state()
        at_once = self.ranks.world == 1 and _size(held) <= _SMALL
        problem, staged = self._staged(self.path, held, whole, best, copied=not at_once)
        if not problem:
            progress = {**state.as_dict(), "identity": self.identity}
            good = state.stability.good if self.keep_good else None
            job = self._thread.submit(
                self._save, self.path, staged, progress, self._group, whole, best, good
            )
            self._flight = _Write(state.nimg, whole, job)
            if must:
                problem = self._agreed(self._land())
            elif at_once:
                self.finish()
        if problem and must:
            raise UnwrittenCheckpointError(problem)
        if problem:
            self._warn(state.nimg, problem)

    def settle(self) -> None:
        """Report the write in flight if it has ended."""
        if self._flight is not None and self._flight.done.done():
            self.finish()

    def finish(self) -> None:
        """Wait for the write in flight, if there is one, and report it."""
        if self._flight is None:
            return
        nimg, problem = self._flight.nimg, self._land()
        if problem:
            self._warn(nimg, problem)

    def _land(self) -> str:
        """Wait for the write; returns what went wrong on this rank, or an empty text."""
        flight, self._flight = self._flight, None
        assert flight is not None
        assert self.path is not None
        try:
            undeleted = flight.done.result()
        except (CheckpointError, OSError) as error:
            return str(error)
        if undeleted:
            self._warn(flight.nimg, undeleted)
        if flight.whole:
            self._there = flight.nimg
            self.listener.on_checkpoint(flight.nimg, checkpoint_path(self.path, flight.nimg))
        return ""

    def _warn(self, nimg: int, problem: str) -> None:
        self.listener.on_warning(nimg, f"{problem.rstrip('.')}. Training goes on.")

    def _agreed(self, problem: str) -> str:
        """The first problem of any rank, on every rank."""
        return next((text for text in self.ranks.gather(problem) if text), "")

    def _staged(
        self, path: Path, state: Mapping[str, Any], whole: bool, best: bool, copied: bool
    ) -> tuple[str, dict[str, Any]]:
        """What prevents writing, the same on every rank, and the tensors, copied to the CPU."""
        needed = whole * _size(state) + best * _size(_average(state))
        problem, staged = "", dict[str, Any]()
        if self.ranks.is_main and needed > (free := _free(path)):
            problem = (
                f"Could not write a checkpoint: it takes {as_text(needed)}, but {path} has "
                f"{as_text(free)} left. Make room, or lower schedule.keep_checkpoints "
                f"({self.keep})."
            )
        try:
            if not problem:
                staged = self._copied(state) if copied else dict(state)
        except (RuntimeError, MemoryError) as error:
            problem = f"Could not copy a checkpoint to the CPU: {str(error).splitlines()[0]}"
        return self._agreed(problem), staged

    def _copied(self, state: Mapping[str, Any]) -> dict[str, Any]:
        copy = self._stager.stage(dict(state))
        assert isinstance(copy, dict)  # no future: it is told not to use a thread
        return copy

    def _save(
        self,
        path: Path,
        state: Mapping[str, Any],
        progress: Mapping[str, Any],
        group: Group | None,
        whole: bool,
        best: bool,
        good: int | None,
    ) -> str:
        """Runs in the thread; returns what could not be deleted, as text.

        The best average is written first, so that no checkpoint refers to a missing one.
        """
        if best:
            save_checkpoint(path / BEST, _average(state), progress, group)
        if whole:
            save_checkpoint(path, state, progress, group)
        if self.ranks.is_main:
            try:
                prune_checkpoints(path, self.keep, good, progress["best_nimg"])
            except (OSError, ValueError) as error:  # what was written is whole all the same
                return f"Could not delete earlier checkpoints in {path}: {error}"
        return ""

    @cached_property
    def _stager(self) -> DefaultStager:
        """Copies to the CPU, from CUDA into pinned memory that is used again."""
        cuda = self.ranks.device.type == "cuda"
        # By place: torch has renamed the last one. Pinned, shared, in a thread, without blocking.
        return DefaultStager(StagingOptions(cuda, False, False, cuda))

    @cached_property
    def _group(self) -> Group | None:
        return cpu_group(self.ranks, _SLOWEST_WRITE)


def _average(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state that holds the averaged generator."""
    return {"modules": {AVERAGE: state["modules"][AVERAGE]}, "optimizers": {}}


def _size(state: Mapping[str, Any]) -> int:
    """Bytes of all tensors, summed over all ranks."""
    tensors = [leaf for leaf in tree_leaves(dict(state)) if isinstance(leaf, Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _free(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
