"""Figures: how they look, how they are saved, and what every analysis script shares.

matplotlib and pandas are imported inside functions, so that importing this costs nothing.
"""

from workbench.plotting.axes import (
    axis_break,
    kimg_axis,
    log_axis,
    name_levels,
    round_axis,
    round_ticks,
)
from workbench.plotting.files import FORMATS, check_formats, save_figure, save_frame, save_text
from workbench.plotting.script import Drawing, Script, Written
from workbench.plotting.style import (
    COLUMN_WIDTH,
    NEUTRAL,
    PALETTE,
    STYLES,
    TEXT_WIDTH,
    check_style,
    color,
    new_figure,
    paler,
    paper_style,
    points,
    use_style,
)

__all__ = [
    "COLUMN_WIDTH",
    "FORMATS",
    "NEUTRAL",
    "PALETTE",
    "STYLES",
    "TEXT_WIDTH",
    "Drawing",
    "Script",
    "Written",
    "axis_break",
    "check_formats",
    "check_style",
    "color",
    "kimg_axis",
    "log_axis",
    "name_levels",
    "new_figure",
    "paler",
    "paper_style",
    "points",
    "round_axis",
    "round_ticks",
    "save_figure",
    "save_frame",
    "save_text",
    "use_style",
]
