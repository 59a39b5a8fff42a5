"""Images that an evaluation keeps: a folder for each sampler, and nothing else in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from workbench.errors import RequestError, WorkbenchError
from workbench.students.pictures import WRITERS
from workbench.workspace import written_aside

_MARKER = "evaluation.txt"
"""Says which sampler and prompts the images are of."""


@dataclass(frozen=True)
class KeptImages:
    """A :class:`ImageSink` of one PNG a sample, named by the sample's index."""

    folder: Path

    def has(self, start: int, count: int) -> bool:
        """Whether every image is there: each was written aside and renamed, so it is whole."""
        return all(self._file(sample).is_file() for sample in range(start, start + count))

    def keep(self, images: Tensor, prompts: Sequence[str], start: int) -> None:
        """Write images (B, 3, H, W) in [0, 1] with their prompts.

        Raises:
            WorkbenchError: no room on the disk.
        """
        for number, (image, prompt) in enumerate(zip(images.cpu(), prompts, strict=True)):
            file = self._file(start + number)
            try:
                with written_aside(file, durable=False) as partial:
                    WRITERS["png"](image, {"prompt": prompt}, partial)
            except OSError as error:
                raise WorkbenchError(f"Could not keep {file}: {error}.") from error

    def _file(self, sample: int) -> Path:
        return self.folder / f"{sample:06d}.png"


def claim_folder(folder: Path, made_by: str) -> KeptImages:
    """The folder for one sampler's images of one set of prompts; those it has are kept.

    Args:
        made_by: hash of the sampler and the prompts.

    Raises:
        RequestError: other files are there, or images of another sampler or other prompts.
    """
    marker = folder / _MARKER
    known = marker.read_text(encoding="utf-8").strip() if marker.is_file() else None
    if folder.is_dir() and any(folder.iterdir()) and known != made_by:
        raise RequestError(
            f"{folder} holds other files: images of two evaluations in one folder could not be "
            "told apart. Name another with --keep-images."
        )
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{made_by}\n", encoding="utf-8")
    return KeptImages(folder)
