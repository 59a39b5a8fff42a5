"""Figure 4: a distance and a second score against generated images, one panel a label.

Left stands a distance, FID where there is one, right a score that is the better the higher. Lines
are means over seeds, bands reach from the lowest to the highest seed, dashed lines are the
teacher's levels, rings mark instabilities (:func:`~workbench.plotting.curves.find_instabilities`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import unknown_name
from workbench.metrics import first_rising, title_of
from workbench.plotting.axes import kimg_axis, log_axis, name_levels
from workbench.plotting.curves import (
    distance_in,
    drawable,
    find_instabilities,
    mean_curve,
    measured_in,
    need_distance,
    records,
)
from workbench.plotting.style import (
    COLUMN_WIDTH,
    NEUTRAL,
    TEXT_WIDTH,
    color,
    new_figure,
    paler,
    paper_style,
    points,
)
from workbench.samplers import sampler_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OF_RUN = ["label", "run", "seed", "kimg"]


class Shown(NamedTuple):
    """What the left axis shows, and the right one; None: there is no right one."""

    first: str
    second: str | None


def second_metric(frame: pd.DataFrame, wanted: str | None = None) -> str | None:
    """What the right axis shows; None if the runs have nothing for it.

    Raises:
        RequestError: the runs lack what is wanted.
    """
    known = [name for name in measured_in(frame) if name != distance_in(frame)]
    if wanted is not None and wanted not in known:
        raise unknown_name("score of these runs for the right axis", wanted, known)
    return wanted or first_rising(known)


def plot(
    frame: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    second: str | None = None,
    *,
    width: float = COLUMN_WIDTH,
) -> Figure:
    """All labels in one panel: a distance (log, left) and the second score (linear, paler, right).

    A logarithm has no place for the evaluation at 0 kimg, the start of the student: it stands at
    the left end, before a break in the axis, at the tick "0".

    Raises:
        RequestError: there is no distance to draw, or none that is finite and above 0.
    """
    shown = Shown(need_distance(frame), second_metric(frame, second))
    several = frame["label"].nunique() > 1
    with paper_style():
        figure = new_figure(width, 0.72 * width)
        axes = figure.add_subplot()
        right = _draw_panel(axes, frame, levels, shown)
        _label_axes(axes, right, shown, single=not several)
        name_levels(axes, _distinct_levels(levels, shown.first))
        if several:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, borderaxespad=0.2)
    return figure


def plot_panels(
    frame: pd.DataFrame,
    levels: pd.DataFrame | None = None,
    second: str | None = None,
    *,
    width: float = TEXT_WIDTH,
    columns: int = 3,
) -> Figure:
    """Figure 4: one panel a label, with the mean over its runs (its seeds) and their range.

    Raises:
        RequestError: there is no distance to draw, or none that is finite and above 0.
    """
    shown = Shown(need_distance(frame), second_metric(frame, second))
    labels = list(dict.fromkeys(frame["label"]))
    rows = -(-len(labels) // columns)
    with paper_style():
        figure = new_figure(width, 0.26 * width * rows)
        panels = [figure.add_subplot(rows, columns, place + 1) for place in range(len(labels))]
        for place, (axes, label) in enumerate(zip(panels, labels, strict=True)):
            own = None if levels is None else levels[levels["label"] == label]
            right = _draw_panel(axes, frame[frame["label"] == label], own, shown)
            axes.set_title(label)
            _label_axes(axes, right, shown, single=True)
            if place % columns:
                axes.set_ylabel("")
            if right is not None and place % columns < columns - 1 and place < len(labels) - 1:
                right.set_ylabel("")
            if place + columns < len(labels):
                axes.set_xlabel("")
        for axes, label in zip(panels, labels, strict=True):
            own = None if levels is None else levels[levels["label"] == label]
            name_levels(axes, _distinct_levels(own, shown.first))
    return figure


def _draw_panel(
    axes: Axes, frame: pd.DataFrame, levels: pd.DataFrame | None, shown: Shown
) -> Axes | None:
    """Curves and axes of one panel; returns the right axis if there is a second score to show."""
    axes.spines["right"].set_visible(False)
    first, second = shown
    right = axes.twinx() if second is not None and bool(frame[second].notna().any()) else None
    for index, label in enumerate(dict.fromkeys(frame["label"])):
        rows = frame[frame["label"] == label]
        _draw_mean(axes, rows, first, index, color(index))
        if right is not None and second is not None:
            _draw_mean(right, rows, second, index, paler(color(index)), second=True)
    for jump in records(find_instabilities(frame[[*_OF_RUN, first]])):
        if jump.value < math.inf:
            _mark(axes, jump.kimg, jump.value, f"×{jump.height:.2g}")
    kimg_axis(axes, frame["kimg"])
    values = [*drawable(frame, first)[first], *_distinct_levels(levels, first).values()]
    if values:
        log_axis(axes, values)
    if right is not None and second is not None:
        _second_axis(right, axes, frame[second])
    return right


def _draw_mean(
    axes: Axes, rows: pd.DataFrame, metric: str, index: int, shade: str, *, second: bool = False
) -> None:
    curve = mean_curve(rows, metric)
    if curve.empty:
        return
    if (curve["n"] > 1).any():
        band = axes.fill_between(curve["kimg"], curve["low"], curve["high"], color=shade)
        band.set(alpha=0.2, linewidth=0, zorder=2)
    style = {"linewidth": points(1.0), "markersize": points(2.2)} if second else {"zorder": 4}
    marker = "s-" if second else "o-"
    (line,) = axes.plot(curve["kimg"], curve["mean"], marker, color=shade, **style)
    line.set(clip_on=False, gid=f"{metric}-{index}", label=str(rows["label"].iloc[0]))


def _mark(axes: Axes, kimg: float, value: float, text: str) -> None:
    """A ring around an instability, and how many times the best before it it is."""
    (ring,) = axes.plot([kimg], [value], "o", color="black", markersize=points(7), zorder=5)
    ring.set(markerfacecolor="none", markeredgewidth=points(0.8), gid="instability")
    place: dict[str, Any] = {
        "xytext": (0, points(5)),
        "textcoords": "offset points",
        "ha": "center",
    }
    axes.annotate(text, (kimg, value), fontsize=points(7), va="bottom", **place)


def _label_axes(axes: Axes, right: Axes | None, shown: Shown, *, single: bool) -> None:
    axes.set_xlabel("generated images (thousands)")
    axes.set_ylabel(title_of(shown.first))
    if right is None or shown.second is None:
        return
    shade = paler(color(0), 0.7) if single else NEUTRAL
    right.set_ylabel(f"{title_of(shown.second)} (pale)", color=shade)
    right.tick_params(axis="y", colors=shade)
    right.spines["right"].set_color(shade)


def _distinct_levels(levels: pd.DataFrame | None, score: str) -> dict[str, float]:
    """Name and score of the teacher's levels, best first; runs that measured the same share one."""
    if levels is None or levels.empty:
        return {}
    usable = levels[
        (levels["metric"] == score) & (levels["value"] > 0) & (levels["value"] < math.inf)
    ]
    distinct = usable.drop_duplicates(["model", "steps", "value"]).sort_values("value")
    names = [sampler_name(row.model, row.steps) for row in records(distinct)]
    named: dict[str, float] = {}
    for name, row in zip(names, records(distinct), strict=True):
        named[f"{name} ({row.label})" if names.count(name) > 1 else name] = float(row.value)
    return named


def _second_axis(right: Axes, axes: Axes, values: pd.Series[float]) -> None:
    """The right axis: of shares up to 1, from a round number below the lowest; else as it falls."""
    lowest, highest = float(values.min()), float(values.max())
    if lowest > 0.4:
        right.set_ylim(max(0.0, math.floor((lowest - 0.02) * 10) / 10), max(1.0, highest))
    right.spines["left"].set_visible(False)
    axes.set_zorder(right.get_zorder() + 1)
    axes.patch.set_visible(False)


def describe(instabilities: pd.DataFrame) -> tuple[str, ...]:
    """A line for each instability, and one if there is none."""
    if instabilities.empty:
        return ("No instabilities.",)
    return tuple(
        f"Instability: {jump.label}{'' if jump.seed is None else f', seed {jump.seed}'}: "
        f"{title_of(jump.score)} {jump.value:.3g} at {jump.kimg:g} kimg, {jump.height:.2f} times "
        f"the best before it ({jump.best:.3g}); "
        f"{'recovered' if jump.recovered else 'not recovered'}."
        for jump in records(instabilities)
    )
