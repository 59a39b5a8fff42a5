"""How every figure looks and how it is saved: the same bytes for the same data.

matplotlib and pandas are imported inside functions, so that importing this costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

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
