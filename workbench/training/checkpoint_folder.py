"""One run's checkpoints: written, pruned and found again, alike on every rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from workbench.errors import RequestError
from workbench.training.checkpoint import (
    CheckpointError,
    Stateful,
    checkpoint_path,
    damage,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_manifest,
    save_checkpoint,
)
from workbench.training.events import Listener
from workbench.training.parallel import Ranks
from workbench.training.state import TrainingState


class CheckpointFolder:
    """The checkpoints of one recipe.

    Args:
        path: None keeps nothing.
        identity: of recipe, teacher and prompts; checkpoints of another are refused.
        keep: the last so many stay.
        keep_good: so does the one that a roll-back would go to.
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

    def newest(self, nimg: int, last: int | None = None) -> Path | None:
        """The newest whole one, of ``last`` images at most; damaged ones are warned of."""
        found: Path | None = None
        if self.path is not None and self.ranks.is_main:
            found = latest_checkpoint(
                self.path, lambda text: self.listener.on_warning(nimg, text), last
            )
        return self.ranks.from_main(found)

    def at(self, wanted: int) -> Path | None:
        """The whole one of just so many images, if it is there; on every rank."""
        found: Path | None = None
        if self.path is not None and self.ranks.is_main:
            path = checkpoint_path(self.path, wanted)
            found = path if path.is_dir() and damage(path) is None else None
        return self.ranks.from_main(found)

    def restore(self, found: Path, stateful: Stateful) -> TrainingState:
        """Everything as a checkpoint has it; returns its state.

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
        return TrainingState.of(load_checkpoint(found, stateful))

    def write(self, state: TrainingState, stateful: Stateful, must: bool) -> None:
        """A checkpoint of ``state``; a failure is a warning, unless it ``must`` be written.

        Raises:
            CheckpointError: it must, and could not.
        """
        if self.path is None:
            return
        before = replace(state.stability)
        state.stability.checkpointing(state.nimg)
        try:
            progress = {**state.as_dict(), "identity": self.identity}
            written = save_checkpoint(self.path, stateful, progress, self.ranks)
        except CheckpointError as error:
            if must:
                raise
            state.stability = before
            self.listener.on_warning(state.nimg, f"{error}. Training goes on.")
            return
        if self.ranks.is_main:
            good = state.stability.good if self.keep_good else None
            prune_checkpoints(self.path, self.keep, state.best_nimg, good)
        self.listener.on_checkpoint(state.nimg, written)
