"""Distillation methods at equal cost: images, network evaluations and seconds of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.metrics import title_of
from workbench.plotting import (
    NEUTRAL,
    TEXT_WIDTH,
    log_axis,
    name_levels,
    new_figure,
    paper_style,
    points,
    round_axis,
)
from workbench.plotting.curves import drawable, mean_curve, need_distance
from workbench.reports.figures.variants import style_of
from workbench.reports.statistics import Estimate, Observation, estimate_scores
from workbench.reports.tables import Table, number
from workbench.rounding import rounded
from workbench.samplers import sampler_name
from workbench.tracking.curve import interpolate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Cost(NamedTuple):
    """What a curve is drawn against: a column of the frame, its unit, and its name."""

    column: str
    unit: float
    label: str
    short: str


COSTS = (
    Cost("kimg", 1.0, "generated images (thousands)", "kimg"),
    Cost("evaluations", 1e6, "network evaluations (millions)", "M evaluations"),
    Cost("seconds", 1.0, "seconds of training", "s"),
)


def reached_by_all(frame: pd.DataFrame, cost: Cost) -> float:
    """The most of a cost that every run reached; NaN where some did not count it."""
    ends = frame.groupby("run")[cost.column].max()
    return math.nan if ends.isna().any() else float(ends.min())


def at_cost(rows: pd.DataFrame, cost: Cost, limit: float, score: str) -> Estimate | None:
    """Over the runs in ``rows``: a distance at a cost, between the evaluations around it."""
    known = rows[rows[score].notna()].sort_values("kimg")
    if known["run"].nunique() < rows["run"].nunique():
        return None  # a mean over fewer seeds than the others' would pass for theirs
    found = []
    for _, own in known.groupby("run"):
        value = interpolate(list(own[cost.column]), list(own[score]), limit, is_distance=True)
        if value is None:
            return None
        seeds = int(own["seed"].iloc[0]), int(own["evaluation_seed"].iloc[0])
        found.append(Observation(*seeds, value))
    return estimate_scores(found) if found else None


def compare_costs(frame: pd.DataFrame, levels: pd.DataFrame) -> Table:
    """One row a method, best at equal evaluations first; the teacher's levels below.

    Raises:
        RequestError: there is no distance, or none that is finite and above 0.
    """
    score = need_distance(frame)
    limits = {cost: reached_by_all(frame, cost) for cost in COSTS}
    known = [cost for cost, limit in limits.items() if not math.isnan(limit)]
    title = title_of(score)
    heads = [f"{title} at {limits[cost] / cost.unit:.3g} {cost.short}" for cost in known]
    found = {
        label: [at_cost(rows, cost, limits[cost], score) for cost in known]
        for label, rows in frame.groupby("label", sort=False)
    }
    by = next((i for i, cost in enumerate(known) if cost.column == "evaluations"), 0)
    order = sorted(found, key=lambda label: _mean(found[label][by]))
    body = []
    for label in order:
        rows = frame[frame["label"] == label]
        last = mean_curve(rows, score)["kimg"].max()
        end = at_cost(rows, COSTS[0], float(last), score)
        evaluations = rows["evaluations"].max() / (1000 * rows["kimg"].max())
        per_image = "" if math.isnan(evaluations) else f"{evaluations:.1f}"
        cells = [number(each) for each in found[label]]
        body.append([str(label), per_image, *cells, f"{last:g}", number(end)])
    for name, value in teacher_floor(levels, score).items():
        body.append([name, "", *[rounded(value)] * len(known), "", ""])
    columns = ["method", "evaluations an image", *heads, "last kimg", f"{title} there"]
    return Table("At equal cost", columns, body)


def _mean(found: Estimate | None) -> float:
    return math.inf if found is None else found.mean


def teacher_floor(levels: pd.DataFrame, score: str) -> dict[str, float]:
    """The undistilled teacher's score by name, mean over the runs that measured it, best first."""
    own = levels[levels["metric"] == score]
    means: Any = own.groupby(["model", "steps"])["value"].mean().sort_values()
    return {sampler_name(model, steps): float(value) for (model, steps), value in means.items()}


def plot(frame: pd.DataFrame, levels: pd.DataFrame, *, width: float = TEXT_WIDTH) -> Figure:
    """One panel a cost, sharing the distance's axis; costs that runs did not count are left out.

    Raises:
        RequestError: there is no distance to draw, or none that is finite and above 0.
    """
    score = need_distance(frame[frame["kimg"] > 0])
    drawn = drawable(frame[frame["kimg"] > 0], score)
    costs = [cost for cost in COSTS if not math.isnan(reached_by_all(frame, cost))]
    floor = teacher_floor(levels, score)
    with paper_style():
        figure = new_figure(width, 0.42 * width)
        panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
        for axes, cost in zip(panels, costs, strict=True):
            _draw_panel(axes, drawn, cost, score)
        log_axis(panels[0], [*drawn[score], *floor.values()])
        panels[0].set_ylabel(title_of(score))
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=min(8, len(names)))
        for axes in panels[1:]:
            for level in floor.values():
                axes.axhline(level, color=NEUTRAL, linewidth=points(0.7), linestyle=(0, (4, 2.5)))
        name_levels(panels[0], floor)
    return figure


def _draw_panel(axes: Axes, frame: pd.DataFrame, cost: Cost, score: str) -> None:
    for place, label in enumerate(dict.fromkeys(frame["label"])):
        rows = frame[frame["label"] == label]
        curve, (shade, dash, marker) = mean_curve(rows, score), style_of(place)
        spent = rows.groupby("kimg")[cost.column].mean()
        x = [float(spent[kimg]) / cost.unit for kimg in curve["kimg"]]
        if (curve["n"] > 1).any():
            band = axes.fill_between(x, curve["low"], curve["high"], color=shade)
            band.set(alpha=0.15, linewidth=0, zorder=2)
        (line,) = axes.plot(x, curve["mean"], color=shade, linestyle=dash, label=label, zorder=4)
        line.set(marker=marker, markersize=points(3), linewidth=points(1.1), gid=f"mean-{place}")
    spread = frame[cost.column] / cost.unit
    low, high = float(spread.min()), float(spread.max())
    axes.set_xscale("log")
    axes.set_xlim(low / 1.1, high * 1.1)
    round_axis(axes.xaxis, low, high)
    axes.set_xlabel(cost.label)
    axes.spines["right"].set_visible(False)


def uncounted(frame: pd.DataFrame) -> Sequence[str]:
    """A note of the methods whose runs did not count their network evaluations."""
    without = sorted({str(row) for row in frame[frame["evaluations"].isna()]["label"]})
    if not without:
        return ()
    return (f"No count of network evaluations in the runs of {', '.join(without)}.",)
