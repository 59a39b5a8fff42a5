"""Variants against generated images, mean and range over seeds, and their values with intervals.

python analysis/variants.py --experiment t_range --out figures/t_range
python analysis/variants.py --experiment t_range/full weighting --metric alignment --csv
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError, WorkbenchError
from workbench.plotting import (
    FORMATS,
    NEUTRAL,
    TEXT_WIDTH,
    color,
    kimg_axis,
    log_axis,
    name_levels,
    new_figure,
    paper_style,
    save_figure,
    save_frame,
)
from workbench.reports.groups import Group
from workbench.reports.references import select
from workbench.reports.statistics import Estimate, estimate
from workbench.tracking import default_uri
from workbench.tracking.curve import LOWER_IS_BETTER
from workbench.workspace import open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ["label", "run", "seed", "kimg", "seconds", *LOWER_IS_BETTER]
NAMES = {"fid": "FID", "alignment": "alignment"}
MARKERS = "os^DvPX<>"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
"""Colours and markers repeat after seven and nine; the line's dashes then differ."""


def collect(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each run and evaluation; a score that a run lacks is NaN."""
    import pandas as pd

    rows = [
        {
            "label": group.label,
            "run": run.row.run_id,
            "seed": run.seed,
            "kimg": nimg / 1000,
            "seconds": run.curve.seconds[place],
            **{name: values[place] for name, values in run.curve.scores.items()},
        }
        for group in groups
        for run in group.runs
        for place, nimg in enumerate(run.curve.nimg)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def teacher_levels(groups: Sequence[Group], metric: str = "fid") -> dict[str, float]:
    """The score of the one teacher of all groups at its most steps; empty if there are several."""
    found: dict[int, list[float]] = {}
    prefix, suffix = "table/teacher_", f"_{metric}"
    for group in groups:
        for run in group.runs:
            for key, value in run.row.metrics.items():
                steps = key.removeprefix(prefix).removesuffix(suffix)
                if key.startswith(prefix) and key.endswith(suffix) and steps.isdigit():
                    found.setdefault(int(steps), []).append(value)
    if not found or len({group.teacher for group in groups}) > 1:
        return {}
    most = max(found)
    values = found[most]
    same = max(values) - min(values) <= 1e-3 * abs(max(values))
    return {f"teacher, {most} steps": values[0]} if same else {}


def equal_kimg(frame: pd.DataFrame) -> float:
    """The last evaluation that every run reached."""
    return float(frame.groupby("run")["kimg"].max().min())


def final_values(frame: pd.DataFrame, metric: str) -> dict[str, Estimate]:
    """Each label's mean and interval at equal kimg, best first.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    reached = frame[frame["kimg"] <= equal_kimg(frame)].dropna(subset=[metric])
    last = reached.sort_values("kimg").groupby(["label", "run"], sort=False)[metric].last()
    found = {
        str(label): estimate([float(value) for value in values])
        for label, values in last.groupby("label", sort=False)
    }
    found = {label: value for label, value in found.items() if math.isfinite(value.mean)}
    if not found:
        raise RequestError(f"There is no finite {NAMES[metric]} to draw.")
    sign = 1 if LOWER_IS_BETTER[metric] else -1
    return dict(sorted(found.items(), key=lambda item: sign * item[1].mean))


def plot(
    frame: pd.DataFrame,
    metric: str = "fid",
    levels: Mapping[str, float] | None = None,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """Curves on the left, values at equal kimg on the right; the right side names the curves.

    Lines are means over seeds, bands reach from the lowest to the highest seed. On the right: every
    seed, their mean, and its 95 % interval.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    values = final_values(frame, metric)
    styles = {label: place for place, label in enumerate(dict.fromkeys(frame["label"]))}
    with paper_style():
        height = max(0.42 * width, 0.21 * len(values) + 0.9)
        figure = new_figure(width, height)
        left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
        _draw_curves(left, frame, metric, list(values), styles, list((levels or {}).values()))
        _draw_values(right, values, metric, styles, equal_kimg(frame))
        name_levels(left, levels or {})
    return figure


def _draw_curves(
    axes: Axes,
    frame: pd.DataFrame,
    metric: str,
    order: Sequence[str],
    styles: Mapping[str, int],
    levels: Sequence[float],
) -> None:
    kimg_axis(axes, frame["kimg"])
    drawn = frame[frame["label"].isin(order)]
    finite = drawn[metric][drawn[metric].abs() < math.inf]
    if LOWER_IS_BETTER[metric]:
        log_axis(axes, [*(float(v) for v in finite[finite > 0]), *(v for v in levels if v > 0)])
    for label in reversed(order):  # the best on top
        shade, dash, marker = _style(styles[label])
        table = drawn[drawn["label"] == label].pivot(index="kimg", columns="run", values=metric)
        table = table.dropna()  # a mean over fewer seeds would jump
        mean = table.mean(axis=1)
        if table.shape[1] > 1:
            low, high = table.min(axis=1), table.max(axis=1)
            axes.fill_between(mean.index, low, high, color=shade, alpha=0.15, linewidth=0, zorder=2)
        every = max(1, len(mean) // 5)
        (line,) = axes.plot(mean.index, mean, color=shade, linestyle=dash, linewidth=1.2, zorder=4)
        line.set(gid=f"mean-{styles[label]}", marker=marker, markevery=every, clip_on=False)
    reached = equal_kimg(frame)
    if reached < float(frame["kimg"].max()):
        axes.axvline(reached, color=NEUTRAL, linewidth=0.7, linestyle=":", zorder=1)
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("generated images (thousands)")
    axes.set_ylabel(NAMES[metric])


def _draw_values(
    axes: Axes,
    values: Mapping[str, Estimate],
    metric: str,
    styles: Mapping[str, int],
    reached: float,
) -> None:
    for place, (label, found) in enumerate(values.items()):
        shade, _, marker = _style(styles[label])
        if found.interval is not None:
            (line,) = axes.plot(found.interval, (place, place), color=shade, linewidth=1.6)
            line.set(gid=f"interval-{styles[label]}", solid_capstyle="butt")
            below = [place + 0.27] * found.n
            axes.plot(found.values, below, "o", color=NEUTRAL, markersize=1.8, alpha=0.8)
        (mean,) = axes.plot([found.mean], [place], marker, color=shade, markersize=5.5, zorder=4)
        mean.set(markeredgecolor="white", markeredgewidth=0.5)
    several = any(found.n > 1 for found in values.values())
    axes.set_yticks(range(len(values)), labels=list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.5, zorder=0)
    axes.set_axisbelow(True)
    how = " (95 % interval)" if several else ""
    axes.set_xlabel(f"{NAMES[metric]} at {reached:g} kimg{how}")


def _style(place: int) -> tuple[str, object, str]:
    return color(place), DASHES[place // 7 % len(DASHES)], MARKERS[place % len(MARKERS)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--experiment", nargs="+", required=True, metavar="NAME", help="experiments, variants, runs"
    )
    parser.add_argument("--metric", default="fid", choices=sorted(LOWER_IS_BETTER))
    parser.add_argument("--workspace", type=Path, default=None, help="(default: ./.workbench)")
    parser.add_argument("--tracking-uri", default=None, help="(default: the workspace's SQLite)")
    parser.add_argument("--out", type=Path, default=Path("variants"), help="path, no suffix")
    parser.add_argument("--format", default="png,svg", help=f"any of {','.join(FORMATS)}")
    parser.add_argument("--csv", action="store_true", help="also write the numbers as CSV")
    options = parser.parse_args(arguments)
    try:
        workspace = open_workspace(options.workspace)
        uri = options.tracking_uri or default_uri(workspace.root)
        groups = select(uri, workspace, options.experiment).groups
        frame = collect(groups)
        figure = plot(frame, options.metric, teacher_levels(groups, options.metric))
        written = save_figure(figure, options.out, options.format.split(","))
        if options.csv:
            written.append(save_frame(frame, options.out.with_name(options.out.name + ".csv")))
        for path in written:
            print(path)
    except WorkbenchError as error:
        parser.exit(error.exit_code, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
