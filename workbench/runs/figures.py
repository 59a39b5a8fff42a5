"""A run's own pictures and the tables behind them, read from its folder: of a running one too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import RequestError
from workbench.metrics import METRICS
from workbench.plotting import fid_curves, save_figure, save_frame
from workbench.plotting.curves import LEVEL_COLUMNS, curve_frame, distance_in
from workbench.plotting.image_rows import image_rows
from workbench.samplers import STOCK, TEACHER
from workbench.tracking import Point, curve_of, read_points

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Curves(NamedTuple):
    """``frame``: one row a run and evaluation. ``levels``: of the runs' teachers."""

    frame: pd.DataFrame
    levels: pd.DataFrame


def collect_points(
    logged: Mapping[str, Iterable[Point]], labels: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Points from runs' own journals, in the order logged, as a frame of curves."""
    rows = []
    for run, found in logged.items():
        curve = curve_of(found)
        for place, nimg in enumerate(curve.nimg):
            row = {"label": (labels or {}).get(run, run), "run": run, "kimg": nimg / 1000}
            row |= {"seconds": curve.seconds[place], "seed": None, "evaluation_seed": None}
            if curve.evaluations:
                row["evaluations"] = curve.evaluations[place]
            rows.append({**row, **{name: own[place] for name, own in curve.scores.items()}})
    return curve_frame(rows)


def levels_of_results(
    results: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The teachers' levels in runs' ``results.json``."""
    import pandas as pd

    rows = [
        ((labels or {}).get(run, run), row["model"], row["steps"], metric, row[metric], 1)
        for run, result in results.items()
        for row in result.get("table", [])
        if row.get("model") in (STOCK, TEACHER)
        for metric in row
        if metric in METRICS
    ]
    return pd.DataFrame(rows, columns=list(LEVEL_COLUMNS))


def read_runs(run_dirs: Sequence[Path], labels: Sequence[str] = ()) -> Curves:
    """Curves and teacher levels from the runs' own folders, also of a run that is still going.

    Raises:
        RequestError: a folder without evaluations, a number of labels that is not the number of
            runs, or damaged results.
    """
    if labels and len(labels) != len(run_dirs):
        raise RequestError(f"{len(run_dirs)} runs have {len(labels)} labels; expected one each.")
    logged = {str(folder): read_points(folder) for folder in run_dirs}
    for run, found in logged.items():
        if not curve_of(found).nimg:
            raise RequestError(f"{run} holds no evaluation yet (no score in its journal).")
    own = [folder.resolve().name for folder in run_dirs]
    often = Counter(own)
    given = labels or [
        name if often[name] == 1 else str(folder)
        for name, folder in zip(own, run_dirs, strict=True)
    ]
    names = dict(zip(logged, given, strict=True))
    results = {str(folder): _read_results(folder / "results.json") for folder in run_dirs}
    return Curves(collect_points(logged, names), levels_of_results(results, names))


def _read_results(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values["table"], list):
            raise TypeError("its table is no list")
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{path} is not a run's results: {error}.") from error
    results: Mapping[str, Any] = values
    return results


def draw_curve(run_dir: Path, table: Sequence[Mapping[str, Any]], target: Path) -> list[Path]:
    """The run's distance, FID say, against kimg with the teacher's levels, and the CSV behind it.

    Of a run that measures none there is the CSV alone.
    """
    label = run_dir.name
    frame = collect_points({label: read_points(run_dir)})
    score = distance_in(frame)
    stem = target / f"{score or 'scores'}_against_kimg"
    csv = save_frame(frame, stem.with_suffix(".csv"))
    if score is None:
        return [csv]
    levels = levels_of_results({label: {"table": table}})
    return [*save_figure(fid_curves.plot(frame, levels), stem), csv]


def draw_panels(variants: Mapping[Path, str], stem: Path) -> list[Path]:
    """Curves of several runs, one panel a variant: PNG, SVG and the CSVs behind them.

    Args:
        variants: run folder -> variant, in the order of the panels.
        stem: of the files; what follows is added.
    """
    curves = read_runs(list(variants), list(variants.values()))
    csv = save_frame(curves.frame, stem.with_name(f"{stem.name}.csv"))
    levels = save_frame(curves.levels, stem.with_name(f"{stem.name}_teacher.csv"))
    return [*save_figure(fid_curves.plot_panels(*curves), stem), csv, levels]


def draw_samples(
    rows: Mapping[str, NDArray[np.float32]], prompts: list[str], target: Path
) -> list[Path]:
    """A captioned grid, one row a model, one column a prompt."""
    return save_figure(image_rows(rows, prompts).figure, target / "samples")
