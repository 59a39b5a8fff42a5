"""Guidance's trade-off: a distance against a rising score, one point a setting, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.errors import RequestError
from workbench.metrics import first_rising, title_of
from workbench.plotting import (
    COLUMN_WIDTH,
    NEUTRAL,
    color,
    new_figure,
    paper_style,
    points,
    round_ticks,
)
from workbench.plotting.curves import distance_in, measured_in, records
from workbench.reports.figures.variants import MARKERS
from workbench.reports.frames import final_frame, over_noise, over_seeds
from workbench.reports.groups import Group
from workbench.samplers import STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_PASSES = 3
_TOUCHING, _NEARER = 200.0, 40.0  # as bad as hiding so many points of a line

_COLUMNS = ["label", "seed", "evaluation_seed", "model", "steps"]


def collect(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each run's student at K, and each run's teacher at each of its step counts.

    Columns: label, both seeds, model, steps, the distance and the other score (:func:`axes_of`);
    rows that lack a finite score are left out, and so are the teachers of groups with several.

    Raises:
        RequestError: no run has both scores of its student.
    """
    frame = final_frame(groups)
    x, y = axes_of(frame)
    finite = (frame[x] > 0) & (frame[x] < math.inf) & (frame[y].abs() < math.inf)
    own = (frame["model"] == STUDENT) & (frame["steps"] == frame["trained_steps"])
    teacher = frame["model"] == TEACHER if len({g.teacher for g in groups}) == 1 else own
    if not (finite & own).any():
        raise RequestError(
            f"No finished run here has a finite {title_of(x)} and {title_of(y)} to draw."
        )
    return frame.loc[finite & (own | teacher), [*_COLUMNS, x, y]].reset_index(drop=True)


def axes_of(frame: pd.DataFrame) -> tuple[str, str]:
    """The distance, and the first of the scores that are the better the higher.

    Raises:
        RequestError: the runs lack one of the two.
    """
    x, y = distance_in(frame), first_rising(measured_in(frame))
    if x is None or y is None:
        known = ", ".join(map(title_of, measured_in(frame))) or "none"
        raise RequestError(
            "The trade-off is between a distance such as FID and a score such as CLIP's that is "
            f"the better the higher; the finished runs have: {known}."
        )
    return x, y


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each setting's student: label, n, each score and its 95 % ``_half``."""
    return over_seeds(frame[frame["model"] == STUDENT], ["label"], axes_of(frame))


def plot(frame: pd.DataFrame, *, width: float = 1.3 * COLUMN_WIDTH) -> Figure:
    """The trade-off: distance (logarithmic) to the right, score upwards, every setting by name."""
    with paper_style():
        figure = new_figure(width, 0.78 * width)
        axes = figure.add_subplot()
        x, y = axes_of(frame)
        plain = frame.rename(columns={x: "x", y: "y"})
        names = _draw_settings(axes, plain[plain["model"] == STUDENT])
        names += _draw_teacher(axes, plain[plain["model"] == TEACHER])
        _finish_axes(axes, title_of(x), title_of(y))
        _show_better(axes)
        _keep_apart(axes, names)
    return figure


def _draw_settings(axes: Axes, frame: pd.DataFrame) -> list[Annotation]:
    """Seeds, mean and interval of each setting; returns their names."""
    names = []
    for place, row in enumerate(records(over_seeds(frame, ["label"], ["x", "y"]))):
        shade, marker = color(place), MARKERS[place % len(MARKERS)]
        seeds = frame[frame["label"] == row.label]
        if row.n > 1:
            axes.plot(seeds["x"], seeds["y"], ".", color=shade, alpha=0.45, zorder=3)
            low = min(row.x_half, row.x * 0.9)  # an interval that reaches 0 has no logarithm
            bars = axes.errorbar(
                row.x,
                row.y,
                xerr=[[low], [row.x_half]],
                yerr=row.y_half,
                color=shade,
                elinewidth=points(0.8),
                zorder=4,
            )
            bars[0].set_gid(f"interval-{place}")
        (mean,) = axes.plot(row.x, row.y, marker, color=shade, zorder=5)
        mean.set(markersize=points(5), gid=f"mean-{place}")
        names.append(_name(axes, row.label, row.x, row.y, shade))
    return names


def _draw_teacher(axes: Axes, rows: pd.DataFrame) -> list[Annotation]:
    """The teacher at each step count, joined in their order; returns their names."""
    levels = over_noise(rows.sort_values("steps"), ["steps"], ["x", "y"])
    (line,) = axes.plot(levels["x"], levels["y"], "x", color=NEUTRAL, zorder=2)
    line.set(linestyle=(0, (4, 2.5)), linewidth=points(0.7), markersize=points(4), gid="teacher")
    return [
        _name(axes, f"teacher, {row.steps:g} steps", row.x, row.y, NEUTRAL)
        for row in records(levels)
    ]


def _name(axes: Axes, text: str, x: float, y: float, shade: str) -> Annotation:
    name = axes.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", color=shade)
    name.set(fontsize=points(7), zorder=6)
    return name


def _finish_axes(axes: Axes, x: str, y: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axes.set_xscale("log")
    axes.margins(0.12)
    axes.spines["right"].set_visible(False)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator(round_ticks(low, high)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{float(f'{value:.3g}'):g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _show_better(axes: Axes) -> None:
    """An arrow above the panel's left end, towards a lower distance and a higher score."""
    style = {"arrowstyle": "->", "color": NEUTRAL, "linewidth": points(0.8)}
    axes.annotate(
        "better",
        (0.0, 1.09),
        xytext=(0.09, 1.02),
        xycoords="axes fraction",
        textcoords="axes fraction",
        arrowprops=style,
        color=NEUTRAL,
        fontsize=points(7),
        annotation_clip=False,
    )


def _keep_apart(axes: Axes, names: Sequence[Annotation]) -> None:
    """Each name beside its point: clear of points and other names, and nearest to its own.

    Placed one after the other, then again among all the others.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, which decides what overlaps
    ink = _ink(axes)
    sides = [
        (x, y, far)
        for far in (1.0, 1.8)
        for y in (0, 1, -1, 2, -2)
        for x in (1, -1, 0)
        if (x, y) != (0, 0)
    ]
    boxes: dict[int, Bbox] = {}
    for place, name in [*enumerate(names)] * _PASSES:
        own = axes.transData.transform(name.xy)
        others = [axes.transData.transform(n.xy) for n in names if n is not name]
        taken = [box for other, box in boxes.items() if other != place]
        costs = []
        for rank, side in enumerate(sides):
            box = _put(name, *side)
            cost = _cost(box, axes.get_window_extent(), ink, taken)
            costs.append((cost + _NEARER * _nearer(box, own, others), rank))
        boxes[place] = _put(name, *sides[min(costs)[1]])


def _ink(axes: Axes) -> NDArray[np.float64]:
    """Points, in pixels, dense along every line and interval, (N, 2)."""
    drawn = [(line.get_transform(), line.get_path()) for line in axes.get_lines()]
    bars = [collection for collection in axes.collections if collection.get_paths()]
    drawn += [(bar.get_transform(), path) for bar in bars for path in bar.get_paths()]
    return np.vstack(
        [transform.transform_path(path).interpolated(60).vertices for transform, path in drawn]
    )


def _cost(box: Bbox, frame: Bbox, ink: NDArray[np.float64], taken: Sequence[Bbox]) -> float:
    """What a name in this box would hide or touch; far more outside the panel."""
    near = box.padded(points(1.5))
    inside = (ink > (near.x0, near.y0)) & (ink < (near.x1, near.y1))
    outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
    outside |= not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
    touched = sum(box.padded(points(3)).overlaps(other) for other in taken)
    return float(inside.all(axis=1).sum()) + _TOUCHING * touched + 1000 * outside


def _nearer(box: Bbox, own: NDArray[np.float64], others: Sequence[NDArray[np.float64]]) -> float:
    """How many other points a reader could take for the named one.

    A point counts whole where it is as near as the own one, and less up to three times as far.
    """

    def away(point: NDArray[np.float64]) -> float:
        inside = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
        return float(np.hypot(*(point - inside)))

    mine = away(own)
    return sum(max(0.0, min(1.0, (3 - away(other) / mine) / 2)) for other in others)


def _put(name: Annotation, x: int, y: int, far: float) -> Bbox:
    """Move a name to a side of its point (right +, up +); returns its box in pixels."""
    name.set(horizontalalignment={1: "left", -1: "right", 0: "center"}[x])
    name.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    away = far * points(6)
    name.xyann = (x * away * (1.0 if y == 0 else 0.6), y * away * 0.7)
    return name.get_window_extent()
