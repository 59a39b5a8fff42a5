"""Variants against generated images, mean and range over seeds, and their values with intervals.

python analysis/variants.py --experiment t_range --out figures/t_range
python analysis/variants.py --experiment t_range/full weighting --metric alignment --csv
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.errors import RequestError
from workbench.plotting import (
    NEUTRAL,
    TEXT_WIDTH,
    Drawing,
    Script,
    color,
    kimg_axis,
    log_axis,
    name_levels,
    new_figure,
    paper_style,
    points,
)
from workbench.reports.comparison import AT_KIMG, Comparison, compare
from workbench.reports.curves import collect_curves as collect
from workbench.reports.curves import mean_curve
from workbench.reports.groups import Group, Selection
from workbench.reports.references import select
from workbench.reports.statistics import Estimate
from workbench.tracking import default_uri
from workbench.tracking.curve import LOWER_IS_BETTER
from workbench.workspace import open_workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"fid": "FID", "alignment": "alignment"}
MARKERS = "os^DvPX<>"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
"""Colours and markers repeat after seven and nine; the line's dashes then differ."""


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


def final_values(comparison: Comparison) -> dict[str, Estimate]:
    """Each label's mean and interval at equal kimg, best first: the numbers of the table.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    metric = comparison.metric
    found = {
        result.group.label: own
        for result in comparison.results
        if (own := result.get(metric, AT_KIMG)) is not None and math.isfinite(own.mean)
    }
    if not found:
        raise RequestError(f"There is no finite {NAMES[metric]} to draw.")
    return found


def plot(
    groups: Sequence[Group],
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
    frame = collect(groups)
    comparison = compare(Selection(tuple(groups)), metric)
    values = final_values(comparison)
    styles = {label: place for place, label in enumerate(dict.fromkeys(frame["label"]))}
    with paper_style():
        height = max(0.42 * width, 0.21 * len(values) + 0.9)
        figure = new_figure(width, height)
        left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
        _draw_curves(left, frame, metric, list(values), styles, list((levels or {}).values()))
        if comparison.kimg < float(frame["kimg"].max()):
            left.axvline(
                comparison.kimg, color=NEUTRAL, linewidth=points(0.7), linestyle=":", zorder=1
            )
        _draw_values(right, values, metric, styles, comparison.kimg)
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
        curve = mean_curve(drawn[drawn["label"] == label], metric)
        if (curve["n"] > 1).any():
            band = axes.fill_between(curve["kimg"], curve["low"], curve["high"], color=shade)
            band.set(alpha=0.15, linewidth=0, zorder=2)
        every = max(1, len(curve) // 5)
        (line,) = axes.plot(curve["kimg"], curve["mean"], color=shade, linestyle=dash, zorder=4)
        line.set_linewidth(points(1.2))
        line.set(gid=f"mean-{styles[label]}", marker=marker, markevery=every, clip_on=False)
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
            (line,) = axes.plot(found.interval, (place, place), color=shade, linewidth=points(1.6))
            line.set(gid=f"interval-{styles[label]}", solid_capstyle="butt")
            below = [place + 0.27] * found.n
            axes.plot(found.values, below, "o", color=NEUTRAL, markersize=points(1.8), alpha=0.8)
        (mean,) = axes.plot(
            [found.mean], [place], marker, color=shade, markersize=points(5.5), zorder=4
        )
        mean.set(markeredgecolor="white", markeredgewidth=points(0.5))
    several = any(found.n > 1 for found in values.values())
    axes.set_yticks(range(len(values)), labels=list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=points(0.5), zorder=0)
    axes.set_axisbelow(True)
    how = " (95 % interval)" if several else ""
    axes.set_xlabel(f"{NAMES[metric]} at {reached:g} kimg{how}")


def _style(place: int) -> tuple[str, object, str]:
    return color(place), DASHES[place // 7 % len(DASHES)], MARKERS[place % len(MARKERS)]


def draw(options: argparse.Namespace) -> Drawing:
    workspace = open_workspace(options.workspace)
    uri = options.tracking_uri or default_uri(workspace.root)
    selection = select(uri, workspace, options.experiment)
    frame = collect(selection.groups)
    levels = teacher_levels(selection.groups, options.metric)
    figure = plot(selection.groups, options.metric, levels)
    return Drawing({"": figure}, {"": frame}, notes=selection.notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experiment", nargs="+", required=True, metavar="NAME", help="experiments, variants, runs"
    )
    parser.add_argument("--metric", default="fid", choices=sorted(LOWER_IS_BETTER))


SCRIPT = Script("variants", __doc__, draw, add_options=add_options, any_experiment=True)
main = SCRIPT.main


if __name__ == "__main__":
    raise SystemExit(main())
