"""A run's own pictures, drawn by the analysis scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.bundled import bundled_folder, load_module

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def draw_curve(run_dir: Path, table: Sequence[Mapping[str, Any]], target: Path) -> list[Path]:
    """The run's distance, FID say, against kimg with the teacher's levels, and the CSV behind it.

    Of a run that measures none there is the CSV alone.
    """
    from workbench.plotting import save_figure, save_frame
    from workbench.tracking import read_points

    script = load_module(bundled_folder("analysis") / "fid_curves.py")
    label = run_dir.name
    frame = script.collect_points({label: read_points(run_dir)})
    levels = script.levels_of_results({label: {"table": table}})
    score = script.distance_in(frame)
    stem = target / f"{score or 'scores'}_against_kimg"
    csv = save_frame(frame, stem.with_suffix(".csv"))
    if score is None:
        return [csv]
    return [*save_figure(script.plot(frame, levels), stem), csv]


def draw_panels(variants: Mapping[Path, str], stem: Path) -> list[Path]:
    """Curves of several runs, one panel a variant: PNG, SVG and the CSVs behind them.

    Args:
        variants: run folder -> variant, in the order of the panels.
        stem: of the files; what follows is added.
    """
    from workbench.plotting import save_figure, save_frame

    script = load_module(bundled_folder("analysis") / "fid_curves.py")
    curves = script.read_runs(list(variants), list(variants.values()))
    csv = save_frame(curves.frame, stem.with_name(f"{stem.name}.csv"))
    levels = save_frame(curves.levels, stem.with_name(f"{stem.name}_teacher.csv"))
    return [*save_figure(script.plot_panels(*curves), stem), csv, levels]


def draw_samples(
    rows: Mapping[str, NDArray[np.float32]], prompts: list[str], target: Path
) -> list[Path]:
    """A captioned grid, one row a model, one column a prompt."""
    from workbench.plotting import save_figure

    script = load_module(bundled_folder("analysis") / "samples.py")
    return list(save_figure(script.plot(rows, prompts), target / "samples"))
