"""Variants against generated images, mean and range over seeds, and their values with intervals.

python analysis/variants.py --experiment t_range --out figures/t_range
python analysis/variants.py --experiment t_range/full weighting --metric alignment --csv
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs, primary_metric
from workbench.reports.figures.variants import plot, teacher_levels
from workbench.reports.frames import collect_curves


def draw(options: argparse.Namespace) -> Drawing:
    selection = chosen_runs(options).selection
    groups, metric = selection.groups, options.metric or primary_metric(selection)
    figure = plot(groups, metric, teacher_levels(groups, metric))
    return Drawing({"": figure}, {"": collect_curves(groups)}, notes=selection.notes)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--experiment", nargs="+", required=True, metavar="NAME", help="experiments, variants, runs"
    )
    parser.add_argument(
        "--metric", help="any score that the runs measured (default: what judged them)"
    )


SCRIPT = Script("variants", __doc__, draw, add_options=add_options, any_experiment=True)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
