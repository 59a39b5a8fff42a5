"""Observed rows on disk, batch by batch: to resume, and to draw nothing for another metric."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.evaluation.hashing import short_hash
from workbench.evaluation.observations import Observations
from workbench.workspace import written_aside

LOG = logging.getLogger(__name__)

_NOT_ONE = (KeyError, TypeError, ValueError)
"""What a file that is no batch raises when read as one."""


@dataclass(frozen=True)
class Timing:
    """Seconds that drawing so many images took, and network evaluations an image where counted."""

    seconds: float
    images: int
    nfe: float | None = None


class FeatureCache:
    """Rows of finished batches of one sampler.

    A file is one batch as one observer saw it. Its name holds its first sample and a hash of its
    prompts, so that the same sampler with more samples continues where fewer ended.

    Args:
        folder: of all caches.
        identity: what decides image i for its prompt: weights, steps, guidance, seed, device.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self.folder = folder / short_hash(identity)

    def load(
        self, observers: Iterable[str], prompts: Sequence[str], counted: bool = False
    ) -> tuple[Observations, list[Timing]]:
        """What is kept of these samples, and what drawing the batches had taken.

        A damaged file is deleted: its batch is drawn again.

        Args:
            counted: whether a batch needs the count of its network evaluations to be whole.
        """
        from safetensors import SafetensorError, safe_open

        observations, timings = Observations(), {}
        for observer in observers:
            for file in sorted(self._place(observer).glob("*.safetensors")):
                try:
                    with safe_open(file, framework="np") as content:
                        rows = content.get_tensor("rows")
                        known = json.loads(content.metadata()["batch"])
                    start, end = int(known["start"]), int(known["start"]) + len(rows)
                    if end <= len(prompts) and known["prompts"] == short_hash(prompts[start:end]):
                        nfe = float(known["nfe"]) if counted else None
                        timing = Timing(float(known["seconds"]), len(rows), nfe)
                        observations.update(start, {observer: rows})
                        timings[start] = timing
                except (SafetensorError, OSError, *_NOT_ONE, WorkbenchError) as error:
                    LOG.warning("%s is damaged (%s); its batch is drawn again.", file, error)
                    file.unlink(missing_ok=True)
        return observations, [timing for _, timing in sorted(timings.items())]

    def save(
        self, start: int, prompts: Sequence[str], rows: Mapping[str, Tensor], timing: Timing
    ) -> None:
        """Keep one batch, each file written aside and renamed.

        Raises:
            WorkbenchError: no room on the disk.
        """
        from safetensors.torch import save_file

        known: dict[str, Any] = {"start": start, "prompts": short_hash(prompts)}
        known |= {"seconds": timing.seconds, "nfe": timing.nfe}
        for observer, values in rows.items():
            file = self._place(observer) / f"{start:07d}-{known['prompts']}.safetensors"
            content = values.detach().to("cpu", torch.float32).contiguous()
            try:
                with written_aside(file) as partial:
                    save_file({"rows": content}, partial, metadata={"batch": json.dumps(known)})
            except OSError as error:
                raise WorkbenchError(f"Could not keep {file}: {error}.") from error

    def _place(self, observer: str) -> Path:
        return self.folder / f"{observer.partition('/')[0]}-{short_hash(observer)}"
