"""Weightings w(t) of the generator's loss: FID curves, FID at equal kimg, and where w looks.

    python analysis/weighting.py --out figures/weighting --csv

Lines are means over seeds, bands reach from the lowest to the highest seed. In the middle: every
seed, their mean and its 95 % interval, best first. On the right: the share of w(t) p(t),
normalized, below --below (0.25), from the closed forms of figure 2; p is the density of t that the
runs used. A weighting that depends on the samples has no such share.
"""

import argparse

from workbench.errors import RequestError
from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs, primary_metric
from workbench.reports.figures.variants import teacher_levels
from workbench.reports.figures.weighting import BELOW, collect, plot
from workbench.reports.frames import collect_curves


def draw(options: argparse.Namespace) -> Drawing:
    if not 0 < options.below < 1:
        raise RequestError(f"--below is a time between 0 and 1, not {options.below:g}.")
    selection = chosen_runs(options).selection
    groups, metric = selection.groups, primary_metric(selection)
    figure = plot(groups, teacher_levels(groups, metric), options.below)
    frames = {"": collect(groups, options.below), "_curves": collect_curves(groups)}
    return Drawing({"": figure}, frames, notes=selection.notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--below", type=float, default=BELOW, metavar="T", help="share of the density below this t"
    )


SCRIPT = Script("weighting", __doc__, draw, experiment="weighting", add_options=add_options)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
