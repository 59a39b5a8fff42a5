"""What a run tells the world while it trains. The base listener hears and does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Where a run stands; ``nimg`` counts generated images."""

    nimg: int
    total_nimg: int
    images_per_s: float


@dataclass
class StopFlag:
    """Set by a signal handler, read between iterations."""

    requested: bool = False


class Listener:
    """Receives the engine's events on rank 0, in order, from the training thread."""

    def on_start(self, progress: Progress) -> None: ...

    def on_iteration(self, progress: Progress) -> None: ...

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None: ...

    def on_checkpoint(self, nimg: int, path: Path) -> None: ...

    def on_warning(self, nimg: int, message: str) -> None: ...

    def on_end(self) -> None:
        """The run ends, however it does."""

    def wants_end(self) -> bool:
        """Asked after each evaluation: whether the run is not worth finishing."""
        return False


class Listeners(Listener):
    """Several listeners as one."""

    def __init__(self, *members: Listener) -> None:
        self.members = members

    def on_start(self, progress: Progress) -> None:
        for member in self.members:
            member.on_start(progress)

    def on_iteration(self, progress: Progress) -> None:
        for member in self.members:
            member.on_iteration(progress)

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        for member in self.members:
            member.on_metrics(nimg, values)

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        for member in self.members:
            member.on_checkpoint(nimg, path)

    def on_warning(self, nimg: int, message: str) -> None:
        for member in self.members:
            member.on_warning(nimg, message)

    def wants_end(self) -> bool:
        return any(member.wants_end() for member in self.members)
