"""Weightings w(t): curves, values at equal kimg, and how much of w(t) p(t) lies at small t."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.plotting import (
    NEUTRAL,
    TEXT_WIDTH,
    color,
    name_levels,
    new_figure,
    paler,
    paper_style,
    points,
)
from workbench.plotting.curves import distinct
from workbench.reports.comparison import Comparison, compare
from workbench.reports.figures.variants import (
    draw_curves,
    draw_values,
    final_values,
    row_axis,
)
from workbench.reports.frames import collect_curves, equal_kimg_frame
from workbench.reports.groups import Group, Selection

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BELOW = 0.25
_SETTING = "method.weighting"


def collect(groups: Sequence[Group], below: float = BELOW) -> pd.DataFrame:
    """One row a group, best first: what ``equal_kimg_frame`` has, weighting, density, share_below.

    ``share_below`` is the integral of w(t) p(t), normalized, up to ``below``; None where w is no
    function of t.
    """
    return _collect(compare(Selection(tuple(groups))), below)


def _collect(comparison: Comparison, below: float) -> pd.DataFrame:
    groups = comparison.groups
    columns: dict[str, Any] = {
        "weighting": [group.params[_SETTING] for group in groups],
        "density": [group.params["method.density"] for group in groups],
        "share_below": [share_below(group, below) for group in groups],
    }
    return equal_kimg_frame(comparison).assign(**columns, below=below)


def share_below(group: Group, below: float) -> float | None:
    """The share of the group's weighted density of t below a time; None without a w(t)."""
    from workbench.flow import WEIGHTINGS, TimeWeighting, get_density
    from workbench.reports.weighted_density import weighted_density

    low, high = json.loads(group.params["method.t_range"])
    weighting = WEIGHTINGS[group.params[_SETTING]]
    if not isinstance(weighting, TimeWeighting):
        return None
    density = get_density(group.params["method.density"], (low, high))
    return float(weighted_density(density, weighting).cdf(np.array([below]))[0])


def names_of(groups: Sequence[Group]) -> dict[str, str]:
    """Label to its formula, and to the label where several groups share a weighting."""
    return distinct({group.label: formula(group.params[_SETTING]) for group in groups})


def formula(weighting: str) -> str:
    """A weighting's name as people print it; names that are no formulas stay."""
    return weighting.replace("^2", "²").replace("-", "−")


def plot(
    groups: Sequence[Group],
    levels: Mapping[str, float] | None = None,
    below: float = BELOW,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """Curves, values at equal kimg, and shares of the density below a time, side by side.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    comparison = compare(Selection(tuple(groups)))
    frame = collect_curves(groups)
    shown = final_values(comparison)
    shares = _collect(comparison, below).set_index("label")["share_below"]
    styles = {label: place for place, label in enumerate(dict.fromkeys(frame["label"]))}
    with paper_style():
        figure = new_figure(width, max(0.4 * width, 0.21 * len(shown) + 0.9))
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.35, 1, 0.55))
        draw_curves(left, frame, comparison, styles, list((levels or {}).values()))
        draw_values(middle, comparison, styles, names_of(groups))
        middle.set_xlabel(middle.get_xlabel().replace(" (", "\n("))
        _draw_shares(right, [shares[label] for label in shown], [styles[label] for label in shown])
        right.set_xlabel(f"share of w(t) p(t)\nat t < {below:g}")
        name_levels(left, levels or {})
    return figure


def _draw_shares(axes: Axes, shares: Sequence[float], styles: Sequence[int]) -> None:
    for place, (share, style) in enumerate(zip(shares, styles, strict=True)):
        known = share == share and share is not None
        if known:
            (bar,) = axes.barh([place], [share], height=0.62, color=paler(color(style), 0.6))
            bar.set_gid(f"share-{style}")
        text = f"{100 * share:.0f} %" if known else "by sample"
        beside: dict[str, Any] = {
            "xytext": (points(2), 0),
            "textcoords": "offset points",
            "va": "center",
        }
        axes.annotate(text, (share if known else 0, place), fontsize=points(7), **beside)
    row_axis(axes, [""] * len(shares))
    axes.set_xlim(0, 1.3)
    axes.set_xticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    axes.spines["bottom"].set_bounds(0, 1)
    axes.axvline(0, color=NEUTRAL, linewidth=points(0.6))
