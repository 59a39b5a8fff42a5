"""Samples that runs logged, taken out of their pictures again, for where no checkpoint is left."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation.grids import CELL_SIZES, gap_of
from workbench.reports.groups import SeedRun
from workbench.reports.samples import SERIES, own_folder
from workbench.runs.tags import SHOWN
from workbench.tracking import list_artifacts, read_artifact_bytes
from workbench.training import formats


def logged_prompts(run: SeedRun) -> list[str]:
    """What a run's pictures show, column by column."""
    told = run.row.tags.get(SHOWN) or run.row.params.get("evaluation.shown")
    return list(json.loads(told)) if told else formats.shown_in_format_1()


def logged_images(run: SeedRun, tracking_uri: str) -> tuple[NDArray[Any], float]:
    """Images (columns, 3, S, S) in [0, 1] of the run's newest evaluation, and its kimg.

    All runs draw them from the same prompts, and those of one evaluation seed from the same noise.
    Small images are enlarged to S = 96 by repeated pixels, large ones reduced to 256.

    Raises:
        WorkbenchError: the run has logged no picture, or it is out of reach.
    """
    folder = own_folder(run)
    if folder is not None:
        names = [f"images/{path.name}" for path in (folder / "tracking/images").glob("*.png")]
    else:
        names = list_artifacts(tracking_uri, run.row.run_id, "images")
    series = {
        int(found[1]): name
        for name in names
        if (found := SERIES.fullmatch(Path(name).name)) is not None
    }
    if not series:
        raise WorkbenchError(f"{run.row.name} has logged no samples.")
    newest = series[max(series)]
    if folder is not None:
        picture = (folder / "tracking" / newest).read_bytes()
    else:
        picture = read_artifact_bytes(tracking_uri, run.row.run_id, newest)
    return cells_of(picture, len(logged_prompts(run))), max(series) / 1000


def cells_of(picture: bytes, columns: int) -> NDArray[Any]:
    """The square images (columns, 3, S, S) in [0, 1] of a one-row ``image_grid``.

    Raises:
        RequestError: a picture too small to be one.
    """
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=np.float32) / 255
    tall, wide = pixels.shape[:2]
    for size in sorted(CELL_SIZES, reverse=True):
        gap = gap_of(size)
        lefts = [wide - (columns - column) * (size + gap) for column in range(columns)]
        if lefts[0] >= 0 and tall - gap >= size:
            break
    else:
        raise RequestError(f"A picture of {wide} x {tall} is no grid of {columns}.")
    bottom = tall - gap
    cells = [pixels[bottom - size : bottom, left : left + size] for left in lefts]
    return np.stack(cells).transpose(0, 3, 1, 2)
