"""Variants against generated images, mean and range over seeds, and their values with intervals.

python analysis/variants.py --experiment t_range --out figures/t_range
python analysis/variants.py --experiment t_range/full weighting --metric alignment --csv
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from workbench.plotting import (
    TEXT_WIDTH,
    Drawing,
    Script,
    name_levels,
    new_figure,
    paper_style,
)
from workbench.reports.comparison import compare, primary_metric
from workbench.reports.curves import collect_curves as collect
from workbench.reports.groups import Group, Selection
from workbench.reports.references import select
from workbench.reports.variant_panels import draw_curves, draw_values, final_values, teacher_levels
from workbench.tracking import default_uri
from workbench.workspace import open_workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    groups: Sequence[Group],
    metric: str | None = None,
    levels: Mapping[str, float] | None = None,
    *,
    width: float = TEXT_WIDTH,
) -> Figure:
    """Curves on the left, values at equal kimg on the right; the right side names the curves.

    Lines are means over seeds, bands reach from the lowest to the highest seed. On the right: every
    seed, their mean, and its 95 % interval.

    Args:
        metric: None for what judged the runs during training.
        levels: name -> value of lines to draw beside the curves.

    Raises:
        RequestError: there is nothing finite to draw.
    """
    frame = collect(groups)
    comparison = compare(Selection(tuple(groups)), metric)
    rows = len(final_values(comparison))
    styles = {label: place for place, label in enumerate(dict.fromkeys(frame["label"]))}
    with paper_style():
        figure = new_figure(width, max(0.42 * width, 0.21 * rows + 0.9))
        left, right = figure.subplots(1, 2, width_ratios=(1.55, 1))
        draw_curves(left, frame, comparison, styles, list((levels or {}).values()))
        draw_values(right, comparison, styles)
        name_levels(left, levels or {})
    return figure


def draw(options: argparse.Namespace) -> Drawing:
    workspace = open_workspace(options.workspace)
    uri = options.tracking_uri or default_uri(workspace.root)
    selection = select(uri, workspace, options.experiment)
    frame = collect(selection.groups)
    metric = options.metric or primary_metric(selection)
    levels = teacher_levels(selection.groups, metric)
    figure = plot(selection.groups, metric, levels)
    return Drawing({"": figure}, {"": frame}, notes=selection.notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experiment", nargs="+", required=True, metavar="NAME", help="experiments, variants, runs"
    )
    parser.add_argument(
        "--metric", help="any score that the runs measured (default: what judged them)"
    )


SCRIPT = Script("variants", __doc__, draw, add_options=add_options, any_experiment=True)
main = SCRIPT.main


if __name__ == "__main__":
    raise SystemExit(main())
