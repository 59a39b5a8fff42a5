"""What a run tells the world while it trains. The base listener hears and does nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self


class EventKind(StrEnum):
    """What may befall a run."""

    FID_JUMP = "fid_jump"
    LOSS_BLOW_UP = "loss_blow_up"
    FAKE_SCORE_LAG = "fake_score_lag"
    NON_FINITE = "non_finite"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class RunEvent:
    """Something that befell a run at ``nimg`` images.

    Attributes:
        message: one line for a person.
        value: what was measured: the FID, the loss, a growth, or how many there have been; None
            where that is no finite number.
    """

    kind: EventKind
    nimg: int
    message: str
    value: float | None

    @classmethod
    def of(cls, kind: EventKind, nimg: int, message: str, value: float) -> Self:
        return cls(kind, nimg, message, value if math.isfinite(value) else None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, from which ``RunEvent(**values)`` is the same again."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """Where a run stands; ``nimg`` counts generated images."""

    nimg: int
    total_nimg: int
    images_per_s: float


def total_images(kimg: float, batch_size: int) -> int:
    """Generated images of a whole run: kimg rounded up to whole batches."""
    return math.ceil(round(kimg * 1000, 6) / batch_size) * batch_size


@dataclass
class StopFlag:
    """Set by a signal handler, read between iterations."""

    requested: bool = False


class Listener:
    """Receives the trainer's events on rank 0, in order, from the training thread."""

    def on_start(self, progress: Progress) -> None: ...

    def on_iteration(self, progress: Progress) -> None: ...

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None: ...

    def on_evaluation(self, what: str, done: int, total: int) -> None:
        """So many samples of what is evaluated are drawn and seen; ``done == total`` is the last.

        Also called outside the training loop, for the table at its end.
        """

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        """It is there; training has gone on meanwhile."""

    def on_warning(self, nimg: int, message: str) -> None: ...

    def on_note(self, message: str) -> None:
        """Good to know once, and no trouble."""

    def on_events(self, events: Sequence[RunEvent]) -> None:
        """The last one has just happened; those before it are the run's so far."""

    def on_end(self) -> None:
        """The run ends, however it does."""

    def wants_end(self) -> bool:
        """Asked after each evaluation: whether the run is not worth finishing."""
        return False


def _to_each(event: str) -> Any:
    """A method of :class:`Listeners` that passes one event on to all."""

    def pass_on(self: Listeners, *told: Any) -> None:
        for member in self.members:
            getattr(member, event)(*told)

    return pass_on


class Listeners(Listener):
    """Several listeners as one; each hears every event, in their order."""

    def __init__(self, *members: Listener) -> None:
        self.members = members

    on_start = _to_each("on_start")
    on_iteration = _to_each("on_iteration")
    on_metrics = _to_each("on_metrics")
    on_evaluation = _to_each("on_evaluation")
    on_checkpoint = _to_each("on_checkpoint")
    on_warning = _to_each("on_warning")
    on_note = _to_each("on_note")
    on_events = _to_each("on_events")
    on_end = _to_each("on_end")

    def wants_end(self) -> bool:
        return any(member.wants_end() for member in self.members)
