"""What a run may tell a tracker. The base class hears and does nothing, so nobody asks `if`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy
    import PIL.Image

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

INTERNAL = "mlflow."
"""What the names of MLflow's own tags begin with."""

SYSTEM = "system/"
"""What the names of the machine's metrics begin with, as MLflow has it."""

KIND = "kind"
"""Tag that says what a tracked run is: a distillation, a plan, a study, drawn figures."""

SEEN_ALIVE = "seen_alive"
"""Tag with the last time, in seconds since 1970, at which the run's process said that it lives."""

STUDENT_SAMPLES = "samples/student"
"""Series of a run's images: the student's, of the same prompts and noise at every step."""


@dataclass(frozen=True)
class RunIdentity:
    """Under which names a run appears. ``params`` are written once and never change.

    ``provenance`` are tags that say what made the run. A resumed run keeps those of its first
    attempt; what made later attempts is appended where it differs.
    """

    experiment: str
    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InputData:
    """A data set that went into a run: described, and prompts also kept word by word.

    ``digest`` identifies the content; the same (name, digest) is logged once. ``columns`` maps a
    column to what it holds, ``source`` is a folder, an address or the name of the code that made
    it, ``context`` what it was used for ("training", "evaluation", ...).
    """

    name: str
    digest: str
    rows: int
    columns: Mapping[str, str]
    source: str
    context: str = "training"
    prompts: tuple[str, ...] = ()

    @classmethod
    def of_prompts(
        cls, name: str, prompts: Sequence[str], source: str, context: str = "training"
    ) -> InputData:
        """Prompts in their order, with the digest of their text."""
        content = hashlib.sha256("\n".join(prompts).encode())
        return cls(
            name=name,
            digest=content.hexdigest()[:16],
            rows=len(prompts),
            columns={"prompt": "text"},
            source=source,
            context=context,
            prompts=tuple(prompts),
        )

    @classmethod
    def of_images(
        cls, name: str, images: numpy.ndarray, source: str, context: str = "training"
    ) -> InputData:
        """Images (N, ...) of any shape and type, with the digest of shape, type and bytes."""
        content = hashlib.sha256(f"{images.shape}{images.dtype}".encode())
        content.update(images.tobytes())
        return cls(
            name=name,
            digest=content.hexdigest()[:16],
            rows=int(images.shape[0]),
            columns={"image": f"{images.dtype}{list(images.shape[1:])}"},
            source=source,
            context=context,
        )


class Tracker:
    """The no-op tracker; ``step`` counts the images generated so far."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """One point per key. A (key, step) that the run already has keeps its first value."""

    def log_image(self, key: str, image: PIL.Image.Image, step: int) -> None:
        """One image of a series. A (key, step) that the run already has keeps its first image."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file as it is now; the same name in the same folder is replaced."""

    def log_inputs(self, data: InputData) -> None:
        """A data set that went into the run."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Labels; the last value of a name counts."""

    def flush(self, timeout: float = 0.0) -> bool:
        """Starts delivery now and waits for it up to ``timeout`` s; true when all is delivered."""
        return True

    def finish(self, status: RunStatus) -> int:
        """Ends the run in its true state; returns how many operations could not be delivered."""
        return 0
