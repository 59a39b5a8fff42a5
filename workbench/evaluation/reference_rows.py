"""A network's rows of a reference as a file, with what is computed from them once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.errors import RequestError
from workbench.evaluation.frechet import FeatureStatistics
from workbench.evaluation.metrics import ReferenceRows
from workbench.workspace import written_aside


def save_rows(file: Path, seen: ReferenceRows) -> None:
    """Rows with their statistics and the root of their covariance, computed here once."""
    from safetensors.numpy import save_file

    statistics = seen.statistics
    content = {
        "rows": seen.rows,
        "mean": statistics.mean,
        "covariance": statistics.covariance,
        "factor": statistics.factor,
    }
    with written_aside(file) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in content.items()}, partial)


def load_rows(file: Path) -> ReferenceRows:
    """What :func:`save_rows` wrote.

    Raises:
        RequestError: missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        content = load_file(file)
        rows, mean = content["rows"], content["mean"]
        covariance, factor = content["covariance"], content["factor"]
    except (OSError, SafetensorError, KeyError) as error:
        raise RequestError(f"{file} is damaged ({error}); build the reference again.") from error
    return ReferenceRows(rows, FeatureStatistics(mean, covariance, len(rows), factor))
