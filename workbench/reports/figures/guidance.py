"""Guidance's trade-off: a distance against a rising score, one point a setting, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import RequestError
from workbench.metrics import first_rising, title_of
from workbench.plotting import (
    COLUMN_WIDTH,
    NEUTRAL,
    color,
    new_figure,
    paper_style,
    points,
    round_axis,
)
from workbench.plotting.curves import distance_in, measured_in, records
from workbench.reports.figures.variants import MARKERS
from workbench.reports.frames import final_frame, over_noise, over_seeds
from workbench.reports.groups import Group, several_teachers
from workbench.samplers import STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ["label", "seed", "evaluation_seed", "model", "steps"]


def collect(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each run's student at K, and each run's teacher at each of its step counts.

    Columns: label, both seeds, model, steps, the distance and the other score (:func:`axes_of`);
    rows that lack a finite score are left out, and so are the teachers of groups with several;
    ``attrs["notes"]`` says so.

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
    kept = frame.loc[finite & (own | teacher), [*_COLUMNS, x, y]].reset_index(drop=True)
    lost = int((own & ~finite).sum())
    told = f"{lost} of {int(own.sum())} results have no finite {title_of(x)} and {title_of(y)}."
    kept.attrs["notes"] = ((told,) if lost else ()) + several_teachers(groups)
    return kept


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


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of each setting's student: label, n, each score and its 95 % ``_half``."""
    return over_seeds(frame[frame["model"] == STUDENT], ["label"], axes_of(frame))


def plot(frame: pd.DataFrame, *, width: float = 1.3 * COLUMN_WIDTH) -> Figure:
    """Distance (logarithmic) to the right, score upwards, every setting named in the legend."""
    with paper_style():
        figure = new_figure(width, 0.86 * width)
        axes = figure.add_subplot()
        x, y = axes_of(frame)
        plain = frame.rename(columns={x: "x", y: "y"})
        _draw_settings(axes, plain[plain["model"] == STUDENT])
        _draw_teacher(axes, plain[plain["model"] == TEACHER])
        axes.set_xscale("log")
        axes.margins(0.12)
        axes.spines["right"].set_visible(False)
        round_axis(axes.xaxis, *axes.get_xlim())
        axes.set(xlabel=title_of(x), ylabel=title_of(y))
        _show_better(axes)
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def _draw_settings(axes: Axes, frame: pd.DataFrame) -> None:
    """Seeds, mean and interval of each setting."""
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
        (mean,) = axes.plot(row.x, row.y, marker, color=shade, zorder=5, label=row.label)
        mean.set(markersize=points(5), gid=f"mean-{place}", linestyle="none")


def _draw_teacher(axes: Axes, rows: pd.DataFrame) -> None:
    """The teacher at each step count, joined in their order, with the counts beside them."""
    levels = over_noise(rows.sort_values("steps"), ["steps"], ["x", "y"])
    if levels.empty:
        return
    (line,) = axes.plot(levels["x"], levels["y"], "x", color=NEUTRAL, zorder=2)
    line.set(linestyle=(0, (4, 2.5)), linewidth=points(0.7), markersize=points(4), gid="teacher")
    line.set_label("teacher, by steps")
    aside: dict[str, Any] = {"xytext": (points(3), points(3)), "textcoords": "offset points"}
    for row in records(levels):
        text = axes.annotate(f"{row.steps:g}", (row.x, row.y), color=NEUTRAL, **aside)
        text.set(fontsize=points(7), zorder=6)


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
