"""Figure 2: densities of t, and what they become under the generator's weightings."""

from __future__ import annotations

import argparse
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.bundled import load_module
from workbench.errors import RequestError, WorkbenchError
from workbench.flow import DENSITIES, WEIGHTINGS, TimeWeighting
from workbench.plotting import (
    COLUMN_WIDTH,
    NEUTRAL,
    TEXT_WIDTH,
    color,
    new_figure,
    paler,
    paper_style,
    points,
)
from workbench.plotting.curves import records
from workbench.reports.weighted_density import LEFT_OUT, Array, WeightedDensity, weighted_density

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = {"text": TEXT_WIDTH, "column": COLUMN_WIDTH}
PAPER_DENSITIES = ("sid", "trigflow", "sana", "ddpm", "edm_train", "edm_sid")
PAPER_WEIGHTINGS = ("1", "1/t", "1-t", "(1-t)^2", "(1-t)/t", "(1-t)^2/t^2")
ONLY_WITH_ALL = frozenset({"1/t^2"})
"""Built in, but no row of the paper's figure."""

TITLES = {
    "sid": "this paper,\nSANA-Sprint",
    "trigflow": "TrigFlow,\ndefault",
    "sana": "SANA,\ndiscretised",
    "ddpm": "DDPM,\nlinear beta",
    "edm_train": "EDM,\ntraining",
    "edm_sid": "EDM sampling,\nas in SiD",
}
ROW_TITLES = {
    "1": "unweighted",
    "1/t": r"$1/t$",
    "1-t": r"$1-t$",
    "(1-t)^2": r"$(1-t)^2$",
    "1/t^2": r"$1/t^2$",
    "(1-t)/t": r"$\dfrac{1-t}{t}$",
    "(1-t)^2/t^2": r"$\dfrac{(1-t)^2}{t^2}$",
}

BINS = 40
SAMPLES = 1 << 17
_NEAR = np.geomspace(1e-4, 0.1, 300)
TIMES: Array = np.concatenate((_NEAR, np.linspace(0.1, 0.9, 321)[1:-1], 1 - _NEAR[::-1]))
"""Where curves are evaluated: more densely at the ends, where the weightings crowd them."""


def make_cells(*, everything: bool = False) -> list[WeightedDensity]:
    """Every column's cells: the paper's, then what else is registered."""
    others = [name for name in WEIGHTINGS if name not in PAPER_WEIGHTINGS]
    rows = [WEIGHTINGS[name] for name in (*PAPER_WEIGHTINGS, *others)]
    columns = [*PAPER_DENSITIES, *(name for name in DENSITIES if name not in PAPER_DENSITIES)]
    return [
        weighted_density(DENSITIES[name], weighting)
        for name in columns
        for weighting in rows
        if isinstance(weighting, TimeWeighting)
        and (everything or weighting.name not in ONLY_WITH_ALL)
    ]


def collect(cells: Sequence[WeightedDensity] | None = None) -> pd.DataFrame:
    """The curves: density, weighting, t, pdf, lower, upper (the cuts; 0 and 1 where none)."""
    import pandas as pd

    frames = [
        pd.DataFrame(
            {
                "density": cell.density.name,
                "weighting": cell.weighting.name,
                "t": TIMES,
                "pdf": cell.pdf(TIMES),
                "lower": cell.lower,
                "upper": cell.upper,
            }
        )
        for cell in (make_cells() if cells is None else cells)
    ]
    return pd.concat(frames, ignore_index=True)


def collect_bins(
    cells: Sequence[WeightedDensity], samples: int = SAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Histograms: density, weighting, left, right, sampled, exact (heights, from the curve)."""
    import pandas as pd

    edges = np.linspace(0, 1, BINS + 1)
    frames = []
    for cell in cells:
        t, weights = cell.sample(samples, seed)
        heights, _ = np.histogram(t, edges, weights=weights)
        exact = np.diff(cell.cdf(edges))
        names = {"density": cell.density.name, "weighting": cell.weighting.name}
        values = {"left": edges[:-1], "right": edges[1:], "sampled": BINS * heights}
        frames.append(pd.DataFrame({**names, **values, "exact": BINS * exact}))
    return pd.concat(frames, ignore_index=True)


def summarize(cells: Sequence[WeightedDensity]) -> pd.DataFrame:
    """A row a cell: density, weighting, normalizer (mean of w), quantiles of t, and the cuts."""
    import pandas as pd

    quantiles = {"p05": 0.05, "median": 0.5, "p95": 0.95}
    rows = [
        {
            "density": cell.density.name,
            "weighting": cell.weighting.name,
            "normalizer": cell.normalizer,
            **{name: cell.quantile(place) for name, place in quantiles.items()},
            "lower": cell.lower,
            "upper": cell.upper,
        }
        for cell in cells
    ]
    return pd.DataFrame(rows)


def plot(
    frame: pd.DataFrame,
    bins: pd.DataFrame | None = None,
    summary: pd.DataFrame | None = None,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """One panel a cell, rows of one weighting, t from 0 to 1 in all; heights are each panel's own.

    Panels end a little above the tallest bar, so that a narrow peak does not flatten the rest.
    Narrower than two columns of text, densities stand in blocks of three.

    Args:
        frame: of :func:`collect`.
        bins: of :func:`collect_bins`, for the bars; without them, panels reach the curve's top.
        summary: of :func:`summarize`, for the medians and the cuts.
        width: in inches.
    """
    densities = list(dict.fromkeys(frame["density"]))
    weightings = list(dict.fromkeys(frame["weighting"]))
    across = len(densities) if width > 1.5 * COLUMN_WIDTH else min(3, len(densities))
    blocks = [densities[first : first + across] for first in range(0, len(densities), across)]
    keys = ["density", "weighting"]
    curves = dict(iter(frame.groupby(keys)))
    bars = {} if bins is None else dict(iter(bins.groupby(keys)))
    told = {} if summary is None else dict(iter(summary.groupby(keys)))
    with paper_style():
        row = 0.52 + 0.16 * (width - COLUMN_WIDTH) / (TEXT_WIDTH - COLUMN_WIDTH)
        height = len(blocks) * (0.6 + row * len(weightings)) + 0.3
        figure = new_figure(width, height)
        grids = np.atleast_1d(np.asarray(figure.subfigures(len(blocks), 1)))
        for part, block in zip(grids, blocks, strict=True):
            shape = (len(weightings), across)
            panels = part.subplots(*shape, squeeze=False, sharex=True)
            for (row, column), axes in np.ndenumerate(panels):
                if column >= len(block):
                    axes.set_visible(False)
                    continue
                key = block[column], weightings[row]
                shade = color(densities.index(block[column]))
                _draw_cell(axes, curves[key], bars.get(key), shade)
                if key in told:
                    _tell(axes, told[key].iloc[0])
                _label(axes, key, first_row=row == 0, first_column=column == 0)
        foot = "" if summary is None else textwrap.fill(_footnote(summary), round(20 * width))
        below = "\n".join(["$t$  (0 data, 1 noise)", *foot.splitlines()])
        grids[-1].supxlabel(below, fontsize=points(7))
    return figure


def _draw_cell(axes: Axes, curve: pd.DataFrame, bars: pd.DataFrame | None, shade: str) -> None:
    top = float(curve["pdf"].max())
    if bars is not None:
        wide = bars["right"] - bars["left"]
        style: dict[str, Any] = {"align": "edge", "color": paler(shade, 0.35)}
        style |= {"edgecolor": "white", "linewidth": points(0.25)}
        axes.bar(bars["left"], bars["sampled"], wide, **style)
        top = min(top, 1.15 * float(bars["exact"].max()))
    shown = curve[(curve["t"] > curve["lower"]) & (curve["t"] < curve["upper"])]
    (line,) = axes.plot(shown["t"], shown["pdf"], color=shade, linewidth=points(1.0))
    line.set_gid("curve")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08 * top)
    axes.set_xticks([0, 0.5, 1], labels=["0", "0.5", "1"])
    axes.set_yticks([])
    axes.spines[["left", "right"]].set_visible(False)


def _tell(axes: Axes, cell: pd.Series[Any]) -> None:
    """The median, marked and named above the panel, and a dagger where the cell is cut."""
    from matplotlib.transforms import ScaledTranslation

    median = float(cell["median"])
    mark = " †" if cell["lower"] > 0 or cell["upper"] < 1 else ""
    up = ScaledTranslation(0, points(1) / 72, axes.figure.dpi_scale_trans)
    axes.text(
        0.5,
        1.0,
        f"median {median:#.2g}{mark}",
        transform=axes.transAxes + up,
        fontsize=points(7),
        color=NEUTRAL,
        ha="center",
        va="bottom",
    )
    (line,) = axes.plot([median], [0], "^", color="black", markersize=points(3.2), zorder=5)
    line.set(clip_on=False, gid="median")


def _footnote(summary: pd.DataFrame) -> str:
    """What the dagger means, in the figure itself."""
    cut = summary[(summary["lower"] > 0) | (summary["upper"] < 1)]
    if cut.empty:
        return ""
    names = cut.drop_duplicates(["density", "lower", "upper"])
    parts = []
    for row in records(names):
        low = [f"$t<{row.lower:.2g}$"] if row.lower > 0 else []
        high = [f"$1-t<{1 - row.upper:.2g}$"] if row.upper < 1 else []
        name = TITLES.get(str(row.density), str(row.density)).partition(",")[0]
        parts.append(f"{' and '.join(low + high)} ({name})")
    share = f"$10^{{{math.log10(LEFT_OUT):.0f}}}$"
    return f"† no integral on (0, 1): without {share} of the density, {'; '.join(parts)}"


def _label(axes: Axes, key: tuple[str, str], *, first_row: bool, first_column: bool) -> None:
    density, weighting = key
    if first_row:
        axes.set_title(TITLES.get(density, density), pad=points(11))
    if first_column:
        name = ROW_TITLES.get(weighting, weighting)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=points(4))


def notes_of(summary: pd.DataFrame, *, everything: bool = False) -> tuple[str, ...]:
    """What was cut, and with ``everything`` which weightings have no row."""
    cut = summary[(summary["lower"] > 0) | (summary["upper"] < 1)]
    notes = [
        f"{row.weighting} over {row.density} has no integral on (0, 1): shown and normalized on "
        f"({row.lower:.3g}, {row.upper:.3g}), without {LEFT_OUT:g} of the density."
        for row in records(cut)
    ]
    if everything:
        notes += [
            f"The weighting {name} depends on the samples, not on t alone: it has no row."
            for name, weighting in WEIGHTINGS.items()
            if not isinstance(weighting, TimeWeighting)
        ]
    return tuple(notes)


def register_file(file: Path) -> None:
    """Run a person's file, which registers densities and weightings.

    Raises:
        RequestError: no such file, or it fails.
    """
    try:
        load_module(file)
    except WorkbenchError:
        raise
    except Exception as error:
        raise RequestError(f"--register {file}: {type(error).__name__}: {error}.") from error


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--width", choices=list(WIDTHS), default="text")
    parser.add_argument(
        "--all", action="store_true", help="also built-in weightings that the paper does not show"
    )
    parser.add_argument(
        "--register",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.py",
        help="calls register_density or register_weighting: more columns and rows",
    )
