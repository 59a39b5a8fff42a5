"""Variants beside each other: curves against kimg, and values at equal kimg with intervals.

matplotlib and pandas are imported by whoever draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError
from workbench.metrics import DRIFT_METRICS, METRICS, title_of
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
    points,
    save_figure,
)
from workbench.plotting.curves import mean_curve
from workbench.reports.comparison import AT_KIMG, Comparison, compare
from workbench.reports.frames import collect_curves, level_frame
from workbench.reports.groups import Group, Selection
from workbench.reports.statistics import Estimate
from workbench.samplers import STOCK, sampler_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^DvPX<>"
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
"""Colours and markers repeat after seven and nine; the line's dashes then differ."""


def teacher_levels(groups: Sequence[Group], metric: str) -> dict[str, float]:
    """The score of the one teacher of all groups at its most steps, of its pipeline where measured.

    Empty if there are several teachers.

    Of the drift from the teacher it is the target.
    """
    target = METRICS[metric].target if metric in DRIFT_METRICS else None
    if target is not None:
        return {"teacher": target}
    if len({group.teacher for group in groups}) != 1:
        return {}
    levels = level_frame(groups)
    own = levels[levels["metric"] == metric]
    if own.empty:
        return {}
    stock = own[own["model"] == STOCK]
    own = own if stock.empty else stock
    most = own[own["steps"] == own["steps"].max()]
    values = [float(value) for value in most["value"]]
    same = max(values) - min(values) <= 1e-3 * abs(max(values))
    return {sampler_name(most["model"].iloc[0], int(own["steps"].max())): values[0]} if same else {}


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
        raise RequestError(f"There is no finite {title_of(metric)} to draw.")
    return found


def style_of(place: int) -> tuple[str, object, str]:
    """Colour, dashes and marker of the place-th variant."""
    return color(place), DASHES[place // 7 % len(DASHES)], MARKERS[place % len(MARKERS)]


def draw_curves(
    axes: Axes,
    frame: pd.DataFrame,
    comparison: Comparison,
    styles: Mapping[str, int],
    levels: Sequence[float] = (),
) -> None:
    """Means over seeds against kimg, the best on top; bands reach from seed to seed.

    Args:
        frame: of ``collect_curves``.
        styles: label to its place among the looks.
        levels: values that the axis must reach too.
    """
    metric, order = comparison.metric, list(final_values(comparison))
    kimg_axis(axes, frame["kimg"])
    drawn = frame[frame["label"].isin(order)]
    finite = drawn[metric][drawn[metric].abs() < math.inf]
    if METRICS[metric].is_distance:
        log_axis(axes, [*(float(v) for v in finite[finite > 0]), *(v for v in levels if v > 0)])
    for label in reversed(order):
        shade, dash, marker = style_of(styles[label])
        curve = mean_curve(drawn[drawn["label"] == label], metric)
        if (curve["n"] > 1).any():
            band = axes.fill_between(curve["kimg"], curve["low"], curve["high"], color=shade)
            band.set(alpha=0.15, linewidth=0, zorder=2)
        every = max(1, len(curve) // 5)
        (line,) = axes.plot(curve["kimg"], curve["mean"], color=shade, linestyle=dash, zorder=4)
        line.set_linewidth(points(1.2))
        line.set(gid=f"mean-{styles[label]}", marker=marker, markevery=every, clip_on=False)
    if comparison.kimg < float(frame["kimg"].max()):
        end = axes.axvline(comparison.kimg, color=NEUTRAL, linestyle=":", zorder=1)
        end.set_linewidth(points(0.7))
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("generated images (thousands)")
    axes.set_ylabel(title_of(metric))


def draw_values(
    axes: Axes,
    comparison: Comparison,
    styles: Mapping[str, int],
    names: Mapping[str, str] | None = None,
) -> None:
    """Every seed, their mean and its 95 % interval at equal kimg, one row a variant, best first.

    Args:
        styles: label to its place among the looks.
        names: label to what stands beside its row, where that is something else.
    """
    values = final_values(comparison)
    for place, (label, found) in enumerate(values.items()):
        shade, _, marker = style_of(styles[label])
        if found.interval is not None:
            (line,) = axes.plot(found.interval, (place, place), color=shade, linewidth=points(1.6))
            line.set(gid=f"interval-{styles[label]}", solid_capstyle="butt")
        if found.n > 1:
            below = [place + 0.27] * found.n
            axes.plot(found.values, below, "o", color=NEUTRAL, markersize=points(1.8), alpha=0.8)
        (mean,) = axes.plot(
            [found.mean], [place], marker, color=shade, markersize=points(5.5), zorder=4
        )
        mean.set(markeredgecolor="white", markeredgewidth=points(0.5))
    intervals = any(found.interval is not None for found in values.values())
    row_axis(axes, [(names or {}).get(label, label) for label in values])
    how = " (95 % interval)" if intervals else ""
    axes.set_xlabel(f"{title_of(comparison.metric)} at {comparison.kimg:g} kimg{how}")


def row_axis(axes: Axes, names: Sequence[str]) -> None:
    """A vertical axis of named rows, the first on top, over a pale grid of the other axis."""
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=points(0.5), zorder=0)
    axes.set_axisbelow(True)


def plot(
    groups: Sequence[Group],
    metric: str | None = None,
    levels: Mapping[str, float] | None = None,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """Curves on the left, values at equal kimg on the right; the right side names the curves.

    Lines are means over seeds, bands reach from the lowest to the highest seed. On the right: every
    seed, their mean, and its 95 % interval.

    Args:
        metric: None for what judged the runs during training.
        levels: name -> value of lines to draw beside the curves.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    frame = collect_curves(groups)
    comparison = compare(Selection(tuple(groups)), metric)
    rows = len(final_values(comparison))
    styles = {label: place for place, label in enumerate(dict.fromkeys(frame["label"]))}
    with paper_style():
        figure = new_figure(width, max(0.42 * width, 0.21 * rows + 0.9))
        left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
        draw_curves(left, frame, comparison, styles, list((levels or {}).values()))
        draw_values(right, comparison, styles)
        name_levels(left, levels or {})
    return figure


def draw(groups: Sequence[Group], metric: str, path: Path) -> Path:
    """The figure of :func:`plot` with the teacher's levels, in the format of the path's suffix.

    Raises:
        RequestError: an unknown format, or nothing finite to draw.
    """
    suffix = path.suffix.removeprefix(".")
    if suffix not in FORMATS:
        wanted = ", ".join(f".{name}" for name in FORMATS)
        raise RequestError(f"The figure {path} needs a name that ends in one of {wanted}.")
    figure = plot(groups, metric, teacher_levels(groups, metric))
    (written,) = save_figure(figure, path.with_suffix(""), [suffix])
    return written
