"""Axes that every curve shares: thousands of images, scores, and levels with their names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from workbench.plotting.style import NEUTRAL, points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox


_NEAREST = 0.12
"""The least distance of two ticks, as a part of the axis."""


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: three to seven of them, if the range has so many.

    None is nearer to another than its text is high in a small panel.
    """
    apart = max(1e-9, _NEAREST * math.log10(high / low))
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), range(1, 10), np.arange(10, 100, 5) / 10):
        found = [float(digit * 10.0**decade) for decade in decades for digit in digits]
        more = list(ticks)  # those of fewer digits stay: they are the rounder ones
        for tick in found:
            if low <= tick <= high and all(abs(math.log10(tick / t)) >= apart for t in more):
                more.append(tick)
        if ticks and len(more) > 7:
            break
        ticks = more
        if len(ticks) >= 3:
            break
    return sorted(ticks) or [low, high]


def round_axis(axis: Axis, low: float, high: float) -> None:
    """Round ticks between two values on a logarithmic axis, written plainly, and no minor names."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axis.set_major_locator(FixedLocator(round_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{float(f'{value:.3g}'):g}"))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def axis_break(axes: Axes, place: float) -> None:
    """Two strokes across the lower axis: what lies left of them is not to scale."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    on_axis = axes.get_xaxis_transform()
    gap = Line2D([place], [0], marker="s", markersize=points(2.6), color="white", zorder=5)
    gap.set_transform(on_axis)
    strokes = [gap]
    for aside in (-1.5, 1.5):
        stroke = Line2D([place], [0], color="black", zorder=6)
        stroke.set(markersize=points(6), markeredgewidth=points(0.6))
        stroke.set_marker([(-0.4, -1.0), (0.4, 1.0)])
        shift = ScaledTranslation(points(aside) / 72, 0, axes.figure.dpi_scale_trans)
        stroke.set_transform(on_axis + shift)
        strokes.append(stroke)
    for part in strokes:
        part.set_clip_on(False)
        axes.add_artist(part)


def kimg_axis(axes: Axes, kimg: pd.Series[float]) -> None:
    """A logarithmic axis of kimg from the first evaluation on; 0, if it is there, at its left end.

    A logarithm has no place for 0 kimg, the start of the student: it stands before a break.
    """
    from matplotlib.ticker import FixedLocator, LogLocator

    positive = sorted(kimg[kimg > 0])
    if not positive:
        axes.set_xlim(-1, 1)
        axes.set_xticks([0])
        return
    low, high = positive[0], positive[-1]
    ticks = round_ticks(low, high)
    if (kimg == 0).any():
        # Logarithmic from the first evaluation on; below it only the point 0 is ever drawn.
        axes.set_xscale("symlog", linthresh=low, linscale=0.3)
        axes.set_xlim(0, high * 1.04)
        axis_break(axes, 0.5 * low)
        ticks = [0.0, *ticks]
    else:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.04, high * 1.04)
    minor = LogLocator(10, range(2, 10)).tick_values(low, high)
    round_axis(axes.xaxis, low, high)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([t for t in minor if low <= t <= high]))


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic value axis with round ticks, and room for a level's name at its foot."""
    low, high = min(values), max(values)
    margin = max(1.12, (high / low) ** 0.1)  # below: room for the name of the lowest level
    low, high = low / margin, high * margin**0.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    round_axis(axes.yaxis, low, high)


def name_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Dashed lines, each with its name just above or below it where least is hidden.

    Call it last: the places depend on everything drawn and on the layout.
    """
    for level in levels.values():
        axes.axhline(level, color=NEUTRAL, linewidth=points(0.7), linestyle=(0, (4, 2.5)), zorder=2)
    figure = axes.get_figure(root=True)
    if not levels or figure is None:
        return
    figure.draw_without_rendering()  # settles the layout, which decides what overlaps
    ink = _ink(figure)
    places = [(x, va) for va in ("bottom", "top") for x in np.linspace(0.99, 0.31, 18)]
    for name, level in levels.items():
        text = axes.text(0.0, level, name, fontsize=points(7), color=NEUTRAL, zorder=6)
        costs = [_cost(axes, text, x, va, ink) for x, va in places]
        box = _put(axes, text, *places[int(np.argmin(costs))])
        across, up = np.linspace(box.x0, box.x1, 20), np.linspace(box.y0, box.y1, 20)
        ink = np.vstack([ink, np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)])


def _ink(figure: Figure) -> NDArray[np.float64]:
    """Points, in pixels, dense along every line of the figure, (N, 2)."""
    dense = []
    for axes in figure.axes:
        for line in axes.get_lines():
            path = line.get_transform().transform_path(line.get_path())
            dense.append(np.asarray(path.interpolated(200).vertices))
    return np.vstack(dense)


def _put(axes: Axes, text: Text, x: float, va: str) -> Bbox:
    """Move a level's name to a fraction of the width, above or below its line; returns its box."""
    from matplotlib.transforms import ScaledTranslation

    away = points(1.5 if va == "bottom" else -2.0)
    shift = ScaledTranslation(0, away / 72, axes.figure.dpi_scale_trans)
    text.set(x=x, horizontalalignment="right", verticalalignment=va)
    text.set_transform(axes.get_yaxis_transform() + shift)
    return text.get_window_extent()


def _cost(axes: Axes, text: Text, x: float, va: str, ink: NDArray[np.float64]) -> float:
    """How much ink the name would cover there; ties prefer the right end, above the line."""
    box = _put(axes, text, x, va).padded(2.0)
    inside = (ink > (box.x0, box.y0)) & (ink < (box.x1, box.y1))
    frame = axes.get_window_extent()
    outside = bool(frame.y0 > box.y0 or frame.x0 > box.x0)
    return float(inside.all(axis=1).sum()) + 0.5 * (1 - x) + 0.3 * (va == "top") + 1e6 * outside
