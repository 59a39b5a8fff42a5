"""A run's own pictures, drawn by the analysis scripts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.bundled import bundled_folder, load_module

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def draw_curve(run_dir: Path, target: Path) -> list[Path]:
    """FID against kimg with the teacher's levels: PNG, SVG and the CSV behind them."""
    from workbench.plotting import save_figure, save_frame

    script = load_module(bundled_folder("analysis") / "fid_curves.py")
    curves = script.collect([run_dir])
    stem = target / "fid_against_kimg"
    table = save_frame(curves.frame, stem.with_suffix(".csv"))
    return [*save_figure(script.plot(curves), stem), table]


def draw_samples(
    rows: Mapping[str, NDArray[np.float32]], prompts: list[str], target: Path
) -> list[Path]:
    """A captioned grid, one row a model, one column a prompt."""
    from workbench.plotting import save_figure

    script = load_module(bundled_folder("analysis") / "samples.py")
    return list(save_figure(script.plot(rows, prompts), target / "samples"))
