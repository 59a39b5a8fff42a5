"""Colours in the MLflow UI, in which a person tells variants apart.

A group's colour is a hash of the group's name and cannot be set; a run's colour is its tag
``mlflow.runColor``. As in views, this was read from the JavaScript of MLflow 3.17.2.
"""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Iterable, Mapping

from workbench.tracking.artifacts import asked_client

_RUN_COLOR = "mlflow.runColor"
_FIRST_PAGE = 100
"""As many runs as the UI loads before anybody scrolls."""

_GROUP_COLORS = (
    *("a6630c", "c83243", "b45091", "8a63bf", "434a93", "137dae", "04867d", "308613", "facb66"),
    *("1f272d", "445461", "5f7281", "8396a5", "93320b", "be501e", "de7921", "f2be88", "115026"),
    *("277c43", "3ba65e", "8ddda8", "9e102c", "c82d4c", "e65b77", "f792a6", "0e538b", "2272b4"),
    *("4299e0", "8acaff"),
)
_ALIKE = 30.0
"""Distance in RGB (0 to 255) below which two of these colours look the same."""


def color_runs(tracking_uri: str, experiment_id: str) -> None:
    """Give the newest runs one colour a variant; a run that has a colour keeps it.

    Raises:
        WorkbenchError: the store does not answer.
    """
    with asked_client(tracking_uri) as client:
        found = client.search_runs([experiment_id], max_results=_FIRST_PAGE)
        tags = {run.info.run_id: run.data.tags for run in reversed(found)}
        for run_id, color in missing_colors(tags).items():
            client.set_tag(run_id, _RUN_COLOR, color)


def missing_colors(tags: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Run id -> colour for runs (id -> tags, oldest first) of a variant that have none."""
    colors = {
        each["variant"]: each[_RUN_COLOR]
        for each in tags.values()
        if "variant" in each and _RUN_COLOR in each
    }
    variants = dict.fromkeys(each["variant"] for each in tags.values() if "variant" in each)
    fresh = (color for color in map(_nth_color, range(1000)) if color not in colors.values())
    colors |= {name: next(fresh) for name in variants if name not in colors}
    return {
        run_id: colors[each["variant"]]
        for run_id, each in tags.items()
        if "variant" in each and _RUN_COLOR not in each
    }


def distinguishable(groups: Iterable[str]) -> bool:
    """Whether a person can tell the colours of all the groups apart."""
    shades = [bytes.fromhex(_GROUP_COLORS[_color_index(group)]) for group in groups]
    return all(math.dist(a, b) >= _ALIKE for a, b in itertools.combinations(shades, 2))


def _color_index(group: str) -> int:
    """Which of its colours the UI takes for a group."""
    total = weighted = 0
    for code in map(ord, group):
        total = (total + code) % 255
        weighted = (weighted + total) % 255
    return (total | weighted << 8) % len(_GROUP_COLORS)


def _nth_color(index: int) -> str:
    """The figures' palette, then ever more hues a golden angle apart."""
    from workbench.plotting import PALETTE

    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hls_to_rgb(index * 0.618034 % 1.0, 0.45, 0.6)
    return f"#{round(red * 255):02X}{round(green * 255):02X}{round(blue * 255):02X}"
