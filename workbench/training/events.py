"""What a run reports while it trains, and the listeners that receive it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self


class EventKind(StrEnum):
    """Kinds of events in a run."""

    FID_JUMP = "fid_jump"
    LOSS_BLOW_UP = "loss_blow_up"
    FAKE_SCORE_LAG = "fake_score_lag"
    NON_FINITE = "non_finite"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run at ``nimg`` images.

    Attributes:
        message: one line for a person.
        value: the measured FID, loss or ratio, or the number of such events; None if it is not
            finite.
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
    """The progress of a run; ``nimg`` counts generated images."""

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
        """``done`` of ``total`` samples of an evaluation are drawn and scored.

        Also called after training, for the final table.
        """

    def on_checkpoint(self, nimg: int, path: Path) -> None:
        """A checkpoint has been written; training has continued meanwhile."""

    def on_warning(self, nimg: int, message: str) -> None: ...

    def on_note(self, message: str) -> None:
        """Information that is worth reporting once and is no warning."""

    def on_events(self, events: Sequence[RunEvent]) -> None:
        """All events of the run so far; the last one has just happened."""

    def on_end(self) -> None:
        """The run ends, however it does."""

    def wants_end(self) -> bool:
        """Asked after each evaluation: whether the run should end early."""
        return False


def _to_each(event: str) -> Any:
    """A method of :class:`Listeners` that passes one event on to all."""

    def pass_on(self: Listeners, *told: Any) -> None:
        for member in self.members:
            getattr(member, event)(*told)

    return pass_on


class Listeners(Listener):
    """Several listeners as one: every event is passed to each, in order."""

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
