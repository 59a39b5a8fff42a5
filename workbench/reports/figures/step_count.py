"""Scores against the steps that a student takes, one line a K trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.errors import NoRunsError
from workbench.metrics import METRICS, first_rising, title_of
from workbench.plotting import (
    NEUTRAL,
    TEXT_WIDTH,
    color,
    log_axis,
    name_levels,
    new_figure,
    paper_style,
    points,
)
from workbench.plotting.curves import measured_in, need_distance
from workbench.reports.figures.variants import MARKERS, teacher_levels
from workbench.reports.frames import final_frame, over_noise, over_seeds, student_names
from workbench.reports.groups import Group, several_teachers
from workbench.samplers import STUDENT, TEACHER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ASIDE = 0.09


def collect(groups: Sequence[Group]) -> pd.DataFrame:
    """One row for each line and step count: line, trained_steps, steps, n, each score, its half.

    ``line`` is the group's label, or "teacher"; the teacher is no repetition and has no interval.
    ``attrs["notes"]`` says where there are several teachers, which are left out.

    Raises:
        NoRunsError: no run has a final table yet.
    """
    import pandas as pd

    frame = final_frame(groups)
    students = frame[frame["model"] == STUDENT].rename(columns={"label": "line"})
    if students.empty:
        raise NoRunsError("No run has ended yet: step counts are measured at a run's end.")
    keys = ["line", "trained_steps", "steps"]
    scores = measured_in(frame)
    own = over_seeds(students.sort_values(["trained_steps", "steps"]), keys, scores)
    teacher = frame[frame["model"] == TEACHER].sort_values("steps")
    teacher = teacher.assign(line=TEACHER, trained_steps=None)
    one = len({group.teacher for group in groups}) == 1
    kept = over_noise(teacher, keys, scores) if one else None
    found = own if kept is None else pd.concat([own, kept], ignore_index=True)
    found.attrs["notes"] = several_teachers(groups)
    return found


def scores_of(frame: pd.DataFrame) -> list[str]:
    """What is drawn: the distance, and the first score that is the better the higher, if any.

    Raises:
        RequestError: there is no distance to draw, or none that is finite and above 0.
    """
    rising = first_rising(measured_in(frame))
    return [need_distance(frame[frame["line"] != TEACHER]), *([rising] if rising else [])]


def plot(frame: pd.DataFrame, groups: Sequence[Group], *, width: float = TEXT_WIDTH) -> Figure:
    """The distance on the left, the other score on the right, each against the steps taken.

    Args:
        frame: of :func:`collect`.
        groups: whose teacher's level is drawn.

    Raises:
        RequestError: as :func:`scores_of`.
    """
    scores = scores_of(frame)
    with paper_style():
        figure = new_figure(width, 0.42 * width)
        panels = figure.subplots(1, len(scores), squeeze=False)[0]
        levels = [teacher_levels(groups, metric) for metric in scores]
        for axes, metric, level in zip(panels, scores, levels, strict=True):
            _draw_panel(axes, frame, metric, list(level.values()))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        for axes, level in zip(panels, levels, strict=True):
            name_levels(axes, level)
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, metric: str, levels: Sequence[float]) -> None:
    students = frame[frame["line"] != TEACHER]
    most = int(students["steps"].max())
    names = student_names(students)
    shown = frame[(frame["line"] != TEACHER) | (frame["steps"] <= most)]
    for place, (line, name) in enumerate(names.items()):
        rows = students[students["line"] == line]
        aside = _ASIDE * (place - (len(names) - 1) / 2)  # or intervals of one step count overlap
        _draw_line(axes, rows.assign(x=rows["steps"] + aside), metric, place, name)
    teacher = shown[(shown["line"] == TEACHER) & shown[metric].notna()]
    if not teacher.empty:
        # Crosses alone: dashes are the level at the most steps.
        (few,) = axes.plot(teacher["steps"], teacher[metric], "x", color=NEUTRAL, zorder=3)
        few.set(label="teacher", gid=TEACHER, markersize=points(4))
    if METRICS[metric].is_distance:
        halves = shown[f"{metric}_half"].fillna(0.0)
        ends = [*(shown[metric] + halves), *(shown[metric] - halves), *levels]
        log_axis(axes, [float(end) for end in ends if 0 < end < math.inf])
    axes.set_xlim(0.6, most + 0.4)
    axes.set_xticks(range(1, most + 1))
    axes.spines["right"].set_visible(False)
    axes.set_xlabel("steps taken (filled: K, as trained)")
    axes.set_ylabel(title_of(metric))


def _draw_line(axes: Axes, rows: pd.DataFrame, metric: str, place: int, name: str) -> None:
    shade, marker = color(place), MARKERS[place % len(MARKERS)]
    (line,) = axes.plot(rows["x"], rows[metric], color=shade, marker=marker, label=name)
    line.set(gid=f"{metric}-{place}", markerfacecolor="white", zorder=4)
    several = rows[rows[f"{metric}_half"].notna()]
    bars: dict[str, Any] = {"color": shade, "linewidth": points(0.9), "zorder": 3}
    low, high = (several[metric] + sign * several[f"{metric}_half"] for sign in (-1, 1))
    axes.vlines(several["x"], low, high, **bars).set_gid(f"{metric}-interval-{place}")
    own = rows[rows["steps"] == rows["trained_steps"]]
    (at_k,) = axes.plot(own["x"], own[metric], marker, color=shade, markersize=points(6))
    at_k.set(zorder=5, gid=f"{metric}-own-{place}")
