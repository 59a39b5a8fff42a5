"""Features on disk, batch by batch: what ranks exchange and what an evaluation resumes."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.evaluation.feature_table import ROWS, Batch, FeatureTable, Rows
from workbench.evaluation.grids import NotFiniteError
from workbench.hashing import fingerprint
from workbench.training.parallel import Ranks
from workbench.workspace import written_aside

LOG = logging.getLogger(__name__)

_SCRATCH = ".evaluation-"

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

    A file is one batch as one extractor saw it. Its name holds its first sample and a hash of its
    prompts, so that the same sampler with more samples continues where fewer ended. Ranks must
    share the folder.

    Args:
        folder: of all caches.
        identity: what decides image i for its prompt: weights, steps, guidance, seed, device.
    """

    def __init__(self, folder: Path, identity: Mapping[str, object]) -> None:
        self.folder = folder / fingerprint(identity)

    def load(
        self, extractors: Iterable[str], prompts: Sequence[str], counted: bool = False
    ) -> tuple[FeatureTable, list[Timing]]:
        """What is kept of these samples, and what drawing the batches had taken.

        A damaged file is deleted: its batch is drawn again.

        Args:
            counted: whether a batch needs the count of its network evaluations to be whole.
        """
        from safetensors import SafetensorError, safe_open

        table, timings = FeatureTable(), {}
        for extractor in extractors:
            for file in sorted(self._place(extractor).glob("*.safetensors")):
                try:
                    with safe_open(file, framework="np") as content:
                        rows = content.get_tensor(ROWS)
                        known = json.loads(content.metadata()["batch"])
                    start, end = int(known["start"]), int(known["start"]) + len(rows)
                    if end <= len(prompts) and known["prompts"] == fingerprint(prompts[start:end]):
                        nfe = float(known["nfe"]) if counted else None
                        timing = Timing(float(known["seconds"]), len(rows), nfe)
                        _finite(extractor, start, rows)
                        table.add(extractor, start, Batch(file, len(rows)))
                        timings[start] = timing
                except (SafetensorError, OSError, *_NOT_ONE, WorkbenchError) as error:
                    LOG.warning("%s is damaged (%s); its batch is drawn again.", file, error)
                    file.unlink(missing_ok=True)
        return table, [timing for _, timing in sorted(timings.items())]

    def save(
        self, start: int, prompts: Sequence[str], rows: Mapping[str, Tensor], timing: Timing
    ) -> FeatureTable:
        """Keep one batch, rows (B, D) by extractor; each file is written aside and renamed.

        Returns:
            Where the rows are.

        Raises:
            ValueError: not rows.
            NotFiniteError: a row is not finite; nothing of the batch is kept then.
            WorkbenchError: no room on the disk.
        """
        from safetensors.numpy import save_file

        known: dict[str, Any] = {"start": start, "prompts": fingerprint(prompts)}
        known |= {"seconds": timing.seconds, "nfe": timing.nfe}
        on_cpu = {key: values.detach().float().cpu().numpy() for key, values in rows.items()}
        arrays = {key: _finite(key, start, values) for key, values in on_cpu.items()}
        kept = FeatureTable()
        for extractor, values in arrays.items():
            file = self._place(extractor) / f"{start:07d}-{known['prompts']}.safetensors"
            try:
                with written_aside(file, durable=False) as partial:
                    save_file({ROWS: values}, partial, metadata={"batch": json.dumps(known)})
            except OSError as error:
                raise WorkbenchError(f"Could not keep {file}: {error}.") from error
            kept.add(extractor, start, Batch(file, len(values)))
        return kept

    def _place(self, extractor: str) -> Path:
        return self.folder / f"{extractor.partition('/')[0]}-{fingerprint(extractor)}"


def _finite(extractor: str, start: int, given: NDArray[Any]) -> Rows:
    """Rows (B, D) of samples ``start .. start + B``, float32.

    Raises:
        ValueError: not rows.
        NotFiniteError: a row is not finite; names the first.
    """
    rows: Rows = np.ascontiguousarray(given, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"{extractor} must give rows (B, D), not of shape {rows.shape}")
    if not np.isfinite(rows).all():
        first = start + int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise NotFiniteError(
            f"What {extractor.partition('/')[0]} sees in sample {first} is not finite: no score."
        )
    return rows


@contextmanager
def scratch_cache(folder: Path | None, ranks: Ranks) -> Iterator[FeatureCache]:
    """An empty cache that all ranks share; it is deleted in the end, also after an error.

    Args:
        folder: where all ranks can write, and no other evaluation does: what a killed one left
            there is deleted first. None = the system's folder for temporary files, which the
            ranks of one machine share.

    Raises:
        WorkbenchError: rank 0 cannot write there; on every rank.
    """
    made = ranks.gather(_made(folder) if ranks.is_main else None)[0]
    if isinstance(made, WorkbenchError):
        raise made
    assert made is not None
    try:
        yield FeatureCache(made, {})
    finally:
        # Whoever comes first: every rank is done, or one has failed and takes the others along.
        shutil.rmtree(made, ignore_errors=True)


def _made(folder: Path | None) -> Path | WorkbenchError:
    """A new folder, or why there is none: to be told to peers that would wait for it."""
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
    except OSError as error:
        return WorkbenchError(f"No room for an evaluation's features: {error}.")
