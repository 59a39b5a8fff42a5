"""A comparison's figure, drawn by the analysis script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.bundled import bundled_folder, load_module
from workbench.errors import RequestError
from workbench.reports.groups import Group


def draw(groups: Sequence[Group], metric: str, path: Path) -> Path:
    """Curves and final values of the groups, in the format of the path's suffix.

    Raises:
        RequestError: an unknown format, or nothing finite to draw.
    """
    from workbench.plotting import FORMATS, save_figure

    if path.suffix.removeprefix(".") not in FORMATS:
        wanted = ", ".join(f".{name}" for name in FORMATS)
        raise RequestError(f"The figure {path} needs a name that ends in one of {wanted}.")
    script = load_module(bundled_folder("analysis") / "variants.py")
    levels = script.teacher_levels(groups, metric)
    figure = script.plot(groups, metric, levels)
    (written,) = save_figure(figure, path.with_suffix(""), [path.suffix.removeprefix(".")])
    return written
