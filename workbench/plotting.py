"""How every figure looks and how it is saved: the same bytes for the same data.

matplotlib and pandas are imported inside functions, so that importing this costs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from workbench.errors import unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

COLUMN_WIDTH = 3.4
"""Width of one text column in inches."""

TEXT_WIDTH = 7.0
"""Width of the whole text in inches."""

# Okabe & Ito (2008), told apart with every common colour blindness; yellow is left out because
# lines in it vanish on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NEUTRAL = "#5A5A5A"

# What matplotlib would stamp into a file beside the drawing: dates and its own version.
_NO_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_NO_METADATA)

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.labelpad": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
}


def color(index: int) -> str:
    """The palette's colour for the index-th series; the palette repeats after its last."""
    return PALETTE[index % len(PALETTE)]


def paler(shade: str, strength: float = 0.45) -> str:
    """The colour mixed with white; ``strength`` is what remains of it, 1 all and 0 none."""
    from matplotlib.colors import to_hex, to_rgb

    return str(to_hex([1.0 - strength * (1.0 - channel) for channel in to_rgb(shade)]))


@contextmanager
def paper_style() -> Iterator[None]:
    """The figure style, on the Agg backend, for the duration; settings from files play no part."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "backend": "Agg"})
        yield


def new_figure(width: float = COLUMN_WIDTH, height: float | None = None) -> Figure:
    """An empty figure of ``width`` x ``height`` inches (golden section by default).

    It is not registered with pyplot: nothing has to be closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height or width / 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: three to six of them, if the range has so many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), range(1, 10), np.arange(10, 100, 5) / 10):
        found = [float(digit * 10.0**decade) for decade in decades for digit in digits]
        inside = [tick for tick in found if low <= tick <= high]
        if ticks and len(inside) > 6:
            break
        ticks = inside
        if len(ticks) >= 3:
            break
    return ticks or [low, high]


def axis_break(axes: Axes, place: float) -> None:
    """Two strokes across the lower axis: what lies left of them is not to scale."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import ScaledTranslation

    on_axis = axes.get_xaxis_transform()
    gap = Line2D([place], [0], marker="s", markersize=2.6, color="white", zorder=5)
    gap.set_transform(on_axis)
    strokes = [gap]
    for points in (-1.5, 1.5):
        stroke = Line2D([place], [0], color="black", zorder=6, markersize=6, markeredgewidth=0.6)
        stroke.set_marker([(-0.4, -1.0), (0.4, 1.0)])
        shift = ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
        stroke.set_transform(on_axis + shift)
        strokes.append(stroke)
    for part in strokes:
        part.set_clip_on(False)
        axes.add_artist(part)


def kimg_axis(axes: Axes, kimg: pd.Series[float]) -> None:
    """A logarithmic axis of kimg from the first evaluation on; 0, if it is there, at its left end.

    A logarithm has no place for 0 kimg, the start of the student: it stands before a break.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator

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
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(FixedLocator([t for t in minor if low <= t <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{float(f'{value:.3g}'):g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def log_axis(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic value axis with round ticks, and room for a level's name at its foot."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    low, high = min(values), max(values)
    margin = max(1.12, (high / low) ** 0.1)  # below: room for the name of the lowest level
    low, high = low / margin, high * margin**0.5
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(round_ticks(low, high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{float(f'{value:.3g}'):g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))


def name_levels(axes: Axes, levels: Mapping[str, float]) -> None:
    """Dashed lines, each with its name just above or below it where least is hidden.

    Call it last: the places depend on everything drawn and on the layout.
    """
    for level in levels.values():
        axes.axhline(level, color=NEUTRAL, linewidth=0.7, linestyle=(0, (4, 2.5)), zorder=2)
    figure = axes.get_figure(root=True)
    if not levels or figure is None:
        return
    figure.draw_without_rendering()  # settles the layout, which decides what overlaps
    ink = _ink(figure)
    places = [(x, va) for va in ("bottom", "top") for x in np.linspace(0.99, 0.31, 18)]
    for name, level in levels.items():
        text = axes.text(0.0, level, name, fontsize=7, color=NEUTRAL, zorder=6)
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

    points = 1.5 if va == "bottom" else -2.0
    shift = ScaledTranslation(0, points / 72, axes.figure.dpi_scale_trans)
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


def save_figure(
    figure: Figure, path_stem: Path, formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Write ``path_stem`` + "." + format for each format; equal figures give equal bytes.

    Raises:
        RequestError: an unknown format.
    """
    for name in formats:
        if name not in _NO_METADATA:
            raise unknown_name("figure format", name, _NO_METADATA)
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    with paper_style():
        for name in formats:
            path = path_stem.with_name(f"{path_stem.name}.{name}")
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            figure.savefig(partial, format=name, metadata=_NO_METADATA[name])
            partial.replace(path)
            written.append(path)
    return written


def save_frame(frame: pd.DataFrame, path: Path) -> Path:
    """Write the numbers behind a figure as CSV, every float in full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    frame.to_csv(partial, index=False, lineterminator="\n")
    partial.replace(path)
    return path
