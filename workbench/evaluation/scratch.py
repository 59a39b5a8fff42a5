"""A feature cache that lasts as long as one evaluation."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.evaluation.feature_cache import FeatureCache
from workbench.evaluation.viewing import Peers

_PREFIX = ".evaluation-"


@contextmanager
def scratch_cache(folder: Path | None, peers: Peers) -> Iterator[FeatureCache]:
    """An empty cache that all ranks share; it is deleted in the end, also after an error.

    Args:
        folder: where all ranks can write, and no other evaluation does: what a killed one left
            there is deleted first. None = the system's folder for temporary files, which the
            ranks of one machine share.

    Raises:
        WorkbenchError: rank 0 cannot write there; on every rank.
    """
    made = peers.gather(_made(folder) if peers.rank == 0 else None)[0]
    if isinstance(made, WorkbenchError):
        raise made
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
            for left in folder.glob(f"{_PREFIX}*"):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    except OSError as error:
        return WorkbenchError(f"No room for an evaluation's features: {error}.")
