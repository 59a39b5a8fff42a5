"""Distillation methods side by side: FID against images, network evaluations and seconds.

    python analysis/methods.py --experiment methods --out figures/methods --csv

Runs without FID are drawn by the first distance that they measured. Lines are means over seeds,
bands reach from the lowest to the highest seed, dashed lines are the undistilled teacher. A network
evaluation is one sample through one network, forward or backward. The table, also on stdout, has
each method's score at the cost that all of them reached, with 95 % intervals over seeds: at equal
images, at equal network evaluations and at equal seconds, each interpolated between the evaluations
around it. Finished runs only.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.methods import compare_costs, plot, uncounted
from workbench.reports.frames import collect_curves, level_frame


def draw(options: argparse.Namespace) -> Drawing:
    selection = chosen_runs(options, finished=True).selection
    frame, levels = collect_curves(selection.groups), level_frame(selection.groups)
    table = compare_costs(frame, levels).markdown()
    return Drawing(
        {"": plot(frame, levels)},
        {"": frame, "_teacher": levels},
        {".md": table},
        printed=table,
        notes=(*selection.notes, *uncounted(frame)),
    )


SCRIPT = Script("methods", __doc__, draw, experiment="methods")


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
