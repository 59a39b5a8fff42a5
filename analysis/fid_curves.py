"""FID and alignment against generated images, with the teacher's levels as lines.

python analysis/fid_curves.py --run-dir .workbench/runs/quickstart/... --out figures/fid
python analysis/fid_curves.py --experiment nine_teachers --out figures/nine_teachers
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import RequestError, WorkbenchError
from workbench.plotting import (
    COLUMN_WIDTH,
    FORMATS,
    NEUTRAL,
    TEXT_WIDTH,
    color,
    kimg_axis,
    log_axis,
    name_levels,
    new_figure,
    paler,
    paper_style,
    save_figure,
    save_frame,
)
from workbench.tracking.spool import Point, read_points
from workbench.workspace import open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = {"eval/fid": "fid", "eval/alignment": "alignment"}
CURVE_COLUMNS = ["run", "label", "kimg", "fid", "alignment"]
LEVEL_COLUMNS = ["run", "label", "steps", "nfe", "fid", "alignment"]


class Curves(NamedTuple):
    """``frame``: one row a run and evaluation. ``levels``: one row a run and teacher level."""

    frame: pd.DataFrame
    levels: pd.DataFrame


def collect(
    points: Mapping[str, Iterable[Point]], labels: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Logged points to one row for each run and step: run, label, kimg, fid, alignment.

    A point logged again after a resume counts once, with its last value. A metric missing at a
    step is NaN there.
    """
    import pandas as pd

    rows = []
    for run, logged in points.items():
        steps: dict[int, dict[str, float]] = {}
        for point in sorted(logged, key=lambda point: point.timestamp):
            if point.key in METRICS:
                steps.setdefault(point.step, {})[METRICS[point.key]] = point.value
        label = (labels or {}).get(run, run)
        rows += [
            {"run": run, "label": label, "kimg": step / 1000.0, **values}
            for step, values in sorted(steps.items())
        ]
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def teacher_levels(
    results: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """The teacher's rows of each run's ``results.json``: run, label, steps, nfe, fid, alignment."""
    import pandas as pd

    rows = [
        {**row, "run": run, "label": (labels or {}).get(run, run)}
        for run, result in results.items()
        for row in result.get("table", [])
        if row.get("model") == "teacher"
    ]
    return pd.DataFrame(rows, columns=LEVEL_COLUMNS)


def read_runs(run_dirs: Sequence[Path], labels: Sequence[str] = ()) -> Curves:
    """Curves and teacher levels from the runs' own folders, also of a run that is still going.

    Raises:
        RequestError: a folder without evaluations, a number of labels that is not the number of
            runs, or damaged results.
    """
    if labels and len(labels) != len(run_dirs):
        raise RequestError(f"{len(run_dirs)} runs have {len(labels)} labels; expected one each.")
    points: dict[str, list[Point]] = {}
    results: dict[str, Mapping[str, Any]] = {}
    names: dict[str, str] = {}
    for place, folder in enumerate(run_dirs):
        run = str(folder)
        points[run] = read_points(folder, METRICS)
        if not points[run]:
            raise RequestError(f"{folder} holds no evaluation yet (no eval/fid in its journal).")
        names[run] = labels[place] if labels else folder.resolve().name
        results[run] = _read_results(folder / "results.json")
    return Curves(collect(points, names), teacher_levels(results, names))


def read_experiment(workspace: Path, experiment: str) -> Curves:
    """The runs of an experiment in a workspace, labelled by variant, in the experiment's order.

    Raises:
        RequestError: no run of that experiment has an evaluation yet.
    """
    folders = sorted((workspace / "runs" / experiment).glob("*/config.json"))
    configs = {file.parent: json.loads(file.read_text(encoding="utf-8")) for file in folders}
    begun = {
        folder: str(config["variant"])
        for folder, config in configs.items()
        if "~" not in folder.name and read_points(folder, METRICS)
    }
    if not begun:
        raise RequestError(f"{workspace} holds no evaluated run of {experiment!r} yet.")
    order = _variants_of(experiment)
    folders = sorted(begun, key=lambda f: (order.get(begun[f], len(order)), begun[f], f.name))
    return read_runs(folders, [begun[folder] for folder in folders])


def _variants_of(experiment: str) -> dict[str, int]:
    """Variant -> place in the experiment's file; empty if the file is gone."""
    from workbench.registry import find_experiments

    found = find_experiments().experiments.get(experiment)
    return {name: place for place, name in enumerate(found.variants)} if found else {}


def plot(
    frame: pd.DataFrame, levels: pd.DataFrame | None = None, *, width: float = COLUMN_WIDTH
) -> Figure:
    """FID (log, solid, left) and alignment (linear, paler, right) against kimg (log).

    A logarithm has no place for the evaluation at 0 kimg, the start of the student: it stands at
    the left end, before a break in the axis, at the tick "0".

    Raises:
        RequestError: there is no finite positive FID to draw.
    """
    _check_drawable(frame)
    with paper_style():
        figure = new_figure(width, 0.72 * width)
        axes = figure.add_subplot()
        right = _draw_panel(axes, frame, levels)
        _label_axes(axes, right, single=frame["run"].nunique() == 1)
        name_levels(axes, _distinct_levels(levels))
        if frame["run"].nunique() > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def plot_panels(
    frame: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    *,
    width: float = TEXT_WIDTH,
    columns: int = 3,
) -> Figure:
    """Figure 4: one panel a label, the runs of a label (its seeds) in one colour.

    Raises:
        RequestError: there is no finite positive FID to draw.
    """
    _check_drawable(frame)
    labels = list(dict.fromkeys(frame["label"]))
    rows = -(-len(labels) // columns)
    with paper_style():
        figure = new_figure(width, 0.29 * width * rows)
        panels = [figure.add_subplot(rows, columns, place + 1) for place in range(len(labels))]
        for place, (axes, label) in enumerate(zip(panels, labels, strict=True)):
            own = None if levels is None else levels[levels["label"] == label]
            right = _draw_panel(axes, frame[frame["label"] == label], own, one_color=True)
            axes.set_title(label)
            _label_axes(axes, right, single=True)
            if place % columns:
                axes.set_ylabel("")
            if right is not None and place % columns < columns - 1 and place < len(labels) - 1:
                right.set_ylabel("")
            if place + columns < len(labels):
                axes.set_xlabel("")
        for axes, label in zip(panels, labels, strict=True):
            own = None if levels is None else levels[levels["label"] == label]
            name_levels(axes, _distinct_levels(own))
    return figure


def _check_drawable(frame: pd.DataFrame) -> None:
    if frame[(frame["fid"] > 0) & (frame["fid"] < math.inf)].empty:
        raise RequestError("There is no finite FID above 0 to draw.")


def _draw_panel(
    axes: Axes, frame: pd.DataFrame, levels: pd.DataFrame | None, *, one_color: bool = False
) -> Axes | None:
    """Curves and axes of one panel; returns the right axis if there is an alignment to show."""
    axes.spines["right"].set_visible(False)
    runs = list(dict.fromkeys(frame["run"]))
    right = axes.twinx() if bool(frame["alignment"].notna().any()) else None
    for index, run in enumerate(runs):
        shade = 0 if one_color else index
        _draw_run(axes, right, frame[frame["run"] == run].sort_values("kimg"), index, shade)
    kimg_axis(axes, frame["kimg"])
    drawn = frame[(frame["fid"] > 0) & (frame["fid"] < math.inf)]
    log_axis(axes, [*drawn["fid"], *_distinct_levels(levels).values()])
    if right is not None:
        _alignment_axis(right, axes, frame["alignment"])
    return right


def _label_axes(axes: Axes, right: Axes | None, *, single: bool) -> None:
    axes.set_xlabel("generated images (thousands)")
    axes.set_ylabel("FID")
    if right is None:
        return
    shade = paler(color(0), 0.7) if single else NEUTRAL
    right.set_ylabel("prompt alignment (pale)", color=shade)
    right.tick_params(axis="y", colors=shade)
    right.spines["right"].set_color(shade)


def _draw_run(
    axes: Axes, right: Axes | None, rows: pd.DataFrame, index: int, color_index: int
) -> None:
    shade, label = color(color_index), str(rows["label"].iloc[0])
    fid, alignment = rows[rows["fid"].notna()], rows[rows["alignment"].notna()]
    (line,) = axes.plot(fid["kimg"], fid["fid"], "o-", color=shade, label=label, zorder=4)
    line.set(clip_on=False, gid=f"fid-{index}")
    if right is not None:
        (line,) = right.plot(alignment["kimg"], alignment["alignment"], "s-", color=paler(shade))
        line.set(clip_on=False, gid=f"alignment-{index}", linewidth=1.0, markersize=2.2)


def _distinct_levels(levels: pd.DataFrame | None) -> dict[str, float]:
    """Name and FID of the teacher's levels, best first; runs that measured the same share one."""
    if levels is None or levels.empty:
        return {}
    usable = levels[(levels["fid"] > 0) & (levels["fid"] < math.inf)]
    distinct = usable.drop_duplicates(["steps", "fid"]).sort_values("fid")
    named: dict[str, float] = {}
    for label, steps, fid in zip(
        distinct["label"], distinct["steps"], distinct["fid"], strict=True
    ):
        several = (distinct["steps"] == steps).sum() > 1
        name = f"teacher, {steps:g} step{'s' if steps != 1 else ''}"
        named[f"{name} ({label})" if several else name] = float(fid)
    return named


def _alignment_axis(right: Axes, axes: Axes, values: pd.Series[float]) -> None:
    """The right axis: from a round number below the lowest value up to 1."""
    lowest = float(values.min())
    bottom = max(0.0, math.floor((lowest - 0.02) * 10) / 10)
    right.set_ylim(bottom, max(1.0, float(values.max())))
    right.spines["left"].set_visible(False)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--run-dir", nargs="+", type=Path, metavar="DIR")
    wanted.add_argument("--experiment", help="its runs in the workspace, one panel a variant")
    parser.add_argument("--workspace", type=Path, default=None, help="(default: ./.workbench)")
    parser.add_argument("--label", nargs="+", default=[], help="one for each --run-dir")
    parser.add_argument("--out", type=Path, default=Path("fid_curves"), help="path, no suffix")
    parser.add_argument("--format", default="png,svg", help=f"any of {','.join(FORMATS)}")
    parser.add_argument("--csv", action="store_true", help="also write the numbers as CSV")
    options = parser.parse_args(arguments)
    try:
        if options.experiment:
            curves = read_experiment(open_workspace(options.workspace).root, options.experiment)
            figure = plot_panels(*curves)
        else:
            curves = read_runs(options.run_dir, options.label)
            figure = plot(*curves)
        written = save_figure(figure, options.out, options.format.split(","))
        if options.csv:
            stem = options.out
            written.append(save_frame(curves.frame, stem.with_name(stem.name + ".csv")))
            written.append(save_frame(curves.levels, stem.with_name(stem.name + "_teacher.csv")))
        for path in written:
            print(path)
    except WorkbenchError as error:
        parser.exit(error.exit_code, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
