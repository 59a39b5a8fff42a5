"""Quality against cost: the teacher at many step counts, students, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import NoRunsError
from workbench.metrics import title_of
from workbench.plotting import (
    NEUTRAL,
    TEXT_WIDTH,
    color,
    log_axis,
    new_figure,
    paler,
    paper_style,
    points,
    round_axis,
)
from workbench.plotting.curves import drawable, measured_in, need_distance
from workbench.reports.figures.variants import MARKERS
from workbench.reports.frames import final_frame, over_noise, over_seeds, student_names
from workbench.reports.groups import Group
from workbench.reports.kept_evaluations import kept_rows, one_call
from workbench.samplers import STOCK, STUDENT, TEACHER
from workbench.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"nfe": "network evaluations", "ms_per_image": "ms per image"}
_ONE_LINE = 5  # as many names of the legend fit side by side
_KEYS = ["line", "model", "trained_steps", "steps", "nfe"]


def collect(groups: Sequence[Group], workspace: Workspace | None = None) -> pd.DataFrame:
    """line, model, trained_steps, steps, nfe, n, each value and its ``_half``, front_<cost>.

    ``front_<cost>`` says whether no other row has both a lower distance and no higher cost,
    ``attrs["notes"]`` what was left out.

    Args:
        workspace: whose kept evaluations count too, of students for their times.

    Raises:
        NoRunsError: no run has a final table yet.
        RequestError: the runs measured no distance.
    """
    import pandas as pd

    frame = final_frame(groups).rename(columns={"label": "line"})
    students = _students(frame).sort_values(["trained_steps", "line", "steps"])
    if students.empty:
        raise NoRunsError("No run has ended yet: costs are measured at a run's end.")
    if workspace is not None:
        students = students.assign(ms_per_image=_times(students, groups, workspace))
    score, values = need_distance(students), measured_in(frame)
    names = {group.label: group.teacher for group in groups}
    several = len(set(names.values())) > 1
    own = frame[frame["model"] != STUDENT].assign(trained_steps=None)
    places = zip(own["model"], own["line"], strict=True)
    own["line"] = [_teacher_line(model, names[line] if several else None) for model, line in places]
    kept, notes = _kept(groups, workspace, several) if workspace else ([], ())
    if kept:
        more = pd.DataFrame(kept)
        known = set(zip(more["line"], more["steps"], strict=True))
        pairs = zip(own["line"], own["steps"], strict=True)
        own = pd.concat([own[[pair not in known for pair in pairs]], more])
    teachers = over_noise(own, _KEYS, values)
    found = [teachers.sort_values(["line", "steps"]), over_seeds(students, _KEYS, values)]
    whole = pd.concat(found, ignore_index=True)
    marks = {f"front_{cost}": front(list(whole[cost]), list(whole[score])) for cost in COSTS}
    frame = whole.assign(**marks)
    frame.attrs["notes"] = notes
    return frame


def _teacher_line(model: str, teacher: str | None) -> str:
    """The name of a teacher's line, with which teacher it is where there are several."""
    if model == STOCK:
        return "teacher's pipeline" if teacher is None else f"{teacher}, its pipeline"
    return teacher or model


def _times(students: pd.DataFrame, groups: Sequence[Group], workspace: Workspace) -> list[float]:
    """Each row's ms per image: of the run's kept evaluation, where there is one, else its own."""
    kept = {}
    for run in (run for group in groups for run in group.runs):
        name = "/".join(Path(run.row.tags.get("folder", "")).parts[-2:])
        for row in kept_rows(workspace, STUDENT, name):
            if row.protocol == run.protocol:
                kept[run.row.run_id, row.steps] = row.ms_per_image
    rows = zip(students["run"], students["steps"], students["ms_per_image"], strict=True)
    return [kept.get((run, steps), own) for run, steps, own in rows]


def _kept(
    groups: Sequence[Group], workspace: Workspace, several: bool
) -> tuple[list[dict[str, object]], tuple[str, ...]]:
    protocols = {run.protocol for group in groups for run in group.runs}
    rows: dict[tuple[str, int, int], dict[str, object]] = {}
    other = 0
    for teacher in dict.fromkeys(group.teacher for group in groups):
        # The first group's own points are those that kept ones stand among.
        first = next(group for group in groups if group.teacher == teacher)
        own, line = one_call(workspace, first.runs), teacher if several else TEACHER
        for row in kept_rows(workspace, TEACHER, teacher):
            if row.protocol not in protocols or row.call != own:
                other += 1
                continue
            head = {"line": line, "model": TEACHER, "steps": row.steps}
            costs = {"nfe": row.nfe, "ms_per_image": row.ms_per_image, "evaluation_seed": row.seed}
            rows[line, row.steps, row.seed] = {**head, "trained_steps": None, **costs, **row.scores}
    note = (
        f"{other} kept evaluations were not made by the protocol, guidance and teacher's weights "
        "of the runs' own tables; left out."
    )
    return list(rows.values()), (note,) if other else ()


def front(costs: Sequence[float], values: Sequence[float]) -> list[bool]:
    """Whether each point is on the Pareto front of low cost and low value; NaN never is."""
    pairs = list(zip(costs, values, strict=True))

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one[0] <= other[0] and one[1] <= other[1] and one != other

    return [
        all(map(math.isfinite, pair)) and not any(beats(other, pair) for other in pairs)
        for pair in pairs
    ]


def plot(frame: pd.DataFrame, *, width: float = TEXT_WIDTH) -> Figure:
    """The distance against both costs, all axes logarithmic.

    Raises:
        RequestError: there is no distance to draw, or none that is finite and above 0.
    """
    score = need_distance(frame)
    halves = {f"{score}_half": "value_half"}
    drawn = drawable(frame, score).rename(columns={score: "value", **halves})
    with paper_style():
        figure = new_figure(width, 0.46 * width)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (cost, title) in zip(panels, COSTS.items(), strict=True):
            _draw_panel(axes, drawn[drawn[cost] > 0], cost)
            axes.set_xlabel(title)
        panels[0].set_ylabel(title_of(score))
        handles, names = panels[0].get_legend_handles_labels()
        columns = len(names) if len(names) <= _ONE_LINE else -(-len(names) // 2)
        figure.legend(handles, names, loc="outside upper center", ncols=columns)
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, cost: str) -> None:
    names = _names(frame)
    first = frame[frame["model"] != STUDENT]["line"].nunique()
    for place, (line, name) in enumerate(names.items()):
        rows = frame[frame["line"] == line]
        teacher = bool((rows["model"] != STUDENT).all())
        shade = NEUTRAL if teacher else color(place - first)
        marker = MARKERS[(place - first) % len(MARKERS)]
        if teacher:
            marker = "+" if (rows["model"] == STOCK).all() else "x"
        (curve,) = axes.plot(rows[cost], rows["value"], color=shade, marker=marker, label=name)
        curve.set(gid=f"{cost}-{line}", markerfacecolor="white", linewidth=points(1.1), zorder=4)
        _draw_intervals(axes, rows, cost, shade)
        own = rows[rows["steps"] == rows["trained_steps"]]
        if not own.empty:
            (at_k,) = axes.plot(own[cost], own["value"], marker, color=shade, markersize=points(6))
            at_k.set(zorder=6)
        if teacher:
            _name_steps(axes, rows, cost)
    (filled,) = axes.plot([], [], "o", color=NEUTRAL, markersize=points(6))
    filled.set_label("all K steps")
    _draw_front(axes, frame[frame[f"front_{cost}"]].sort_values(cost), cost)
    halves = frame["value_half"].fillna(0.0)
    ends = [*(frame["value"] - halves), *(frame["value"] + halves)]
    log_axis(axes, [float(end) for end in ends if end > 0])
    around = frame[f"{cost}_half"].fillna(0.0) if f"{cost}_half" in frame else 0.0
    reached = [*frame[cost], *(frame[cost] - around), *(frame[cost] + around)]
    _cost_axis(axes, [float(value) for value in reached if value > 0])
    axes.spines["right"].set_visible(False)


def _draw_intervals(axes: Axes, rows: pd.DataFrame, cost: str, shade: str) -> None:
    thin: dict[str, Any] = {"color": shade, "linewidth": points(0.9), "zorder": 3}
    known = rows[rows["value_half"].notna()]
    half = known["value_half"]
    axes.vlines(known[cost], known["value"] - half, known["value"] + half, **thin)
    if f"{cost}_half" in rows:
        known = rows[rows[f"{cost}_half"].notna()]
        half = known[f"{cost}_half"]
        axes.hlines(
            known["value"], (known[cost] - half).clip(lower=1e-9), known[cost] + half, **thin
        )


def _draw_front(axes: Axes, best: pd.DataFrame, cost: str) -> None:
    band = {"color": paler(NEUTRAL, 0.3), "linewidth": points(4), "zorder": 1}
    (stairs,) = axes.step(best[cost], best["value"], where="post", **band)
    stairs.set(label="Pareto front", gid=f"front-{cost}", solid_joinstyle="miter")
    (rings,) = axes.plot(best[cost], best["value"], "o", color="black", markersize=points(9))
    rings.set(markerfacecolor="none", markeredgewidth=points(0.6), zorder=7)
    rings.set_label("on the front")


def _name_steps(axes: Axes, rows: pd.DataFrame, cost: str) -> None:
    """The teacher's step counts right above its points, each clear of the one before."""
    last = -math.inf
    for row in rows.sort_values(cost).to_dict("records"):
        if math.log(row[cost]) - last < math.log(1.3):
            continue
        last = math.log(row[cost])
        aside: dict[str, Any] = {
            "xytext": (points(3), points(3)),
            "textcoords": "offset points",
            "va": "bottom",
        }
        style: dict[str, Any] = {"fontsize": points(7), "color": NEUTRAL, "ha": "left", "zorder": 8}
        name = axes.annotate(f"{row['steps']:g}", (row[cost], row["value"]), **aside, **style)
        name.set_in_layout(False)  # else the panels' places depend on how often they are drawn


def _cost_axis(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) / 1.25, max(values) * 1.4
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    round_axis(axes.xaxis, low, high)


def _names(frame: pd.DataFrame) -> dict[str, str]:
    """Line to what the legend says, teachers first."""
    teachers = frame[frame["model"] != STUDENT]["line"].unique()
    return {**{str(line): str(line) for line in teachers}, **student_names(_students(frame))}


def _students(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["model"] == STUDENT]
