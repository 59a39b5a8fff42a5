"""How every figure looks: sizes, colours, and two styles, for paper and for a screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_WIDTH = 3.4
"""Width of one text column in inches."""

TEXT_WIDTH = 7.0
"""Width of the whole text in inches."""

# Okabe & Ito (2008), told apart with every common colour blindness; yellow is left out because
# lines in it vanish on white paper.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NEUTRAL = "#5A5A5A"


@dataclass(frozen=True)
class Style:
    """``scale`` multiplies every length of the paper's figure, text included."""

    scale: float
    dpi: int


STYLES = {"paper": Style(scale=1.0, dpi=300), "screen": Style(scale=1.5, dpi=150)}
"""``paper``: text of 7 points and more at printed size. ``screen``: the same picture, larger."""

_current: ContextVar[Style] = ContextVar("style", default=STYLES["paper"])

_LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "figure.dpi": 150,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "workbench",
}
_LENGTHS: dict[str, float] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.labelpad": 3,
    "axes.titlepad": 6,
    "xtick.major.pad": 3.5,
    "ytick.major.pad": 3.5,
    "figure.constrained_layout.h_pad": 0.04167,
    "figure.constrained_layout.w_pad": 0.04167,
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
}
"""In points, and the pads of the layout in inches."""


def color(index: int) -> str:
    """The palette's colour for the index-th series; the palette repeats after its last."""
    return PALETTE[index % len(PALETTE)]


def paler(shade: str, strength: float = 0.45) -> str:
    """The colour mixed with white; ``strength`` is what remains of it, 1 all and 0 none."""
    from matplotlib.colors import to_hex, to_rgb

    return str(to_hex([1.0 - strength * (1.0 - channel) for channel in to_rgb(shade)]))


def check_style(name: str) -> None:
    """Refuses names of no style.

    Raises:
        RequestError: no such style.
    """
    if name not in STYLES:
        raise unknown_name("figure style", name, STYLES)


@contextmanager
def use_style(name: str) -> Iterator[None]:
    """Figures made for the duration have this style.

    Raises:
        RequestError: no such style.
    """
    check_style(name)
    token = _current.set(STYLES[name])
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def paper_style() -> Iterator[None]:
    """The style in use (``paper`` unless :func:`use_style` says otherwise), on the Agg backend.

    Settings from files play no part, and the process's own come back afterwards.
    """
    import matplotlib as mpl

    style = _current.get()
    lengths = {key: style.scale * value for key, value in _LENGTHS.items()}
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_LOOK, **lengths, "savefig.dpi": style.dpi, "backend": "Agg"})
        yield


def points(length: float) -> float:
    """A length of the paper's figure in points (a text size, a line width) in the style in use."""
    return _current.get().scale * length


def new_figure(width: float = COLUMN_WIDTH, height: float | None = None) -> Figure:
    """An empty figure of ``width`` x ``height`` inches on paper (two thirds as high by default).

    It is not registered with pyplot: nothing has to be closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale = _current.get().scale
    size = (scale * width, scale * (height or width / 1.5))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
