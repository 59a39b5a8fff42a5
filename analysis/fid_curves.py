"""Figure 4: FID and CLIP score or alignment against generated images, one panel a variant.

    python analysis/fid_curves.py --experiment nine_teachers --out figures/nine_teachers --csv
    python analysis/fid_curves.py --run-dir .workbench/runs/quickstart/... --out figures/fid

Left: the distance that the runs measured, FID where there is one. Right: the first of their scores
that is the better the higher, unless --second names another. Lines are means over seeds, bands
reach from the lowest to the highest seed, dashed lines are the teacher's levels. Rings mark
instabilities (see workbench.plotting.curves.find_instabilities), which are also listed on stderr.
With --run-dir the numbers come from the runs' own folders, also while they are going on.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.plotting.curves import find_instabilities
from workbench.plotting.fid_curves import describe, plot, plot_panels
from workbench.reports import chosen_runs
from workbench.reports.figures.fid_curves import add_options, check_options, tracked_curves
from workbench.runs.figures import read_runs


def draw(options: argparse.Namespace) -> Drawing:
    check_options(options)
    if options.run_dir:
        curves = read_runs(options.run_dir, options.label)
        notes: tuple[str, ...] = ()
        figure = plot(*curves, options.second)
    else:
        selection = chosen_runs(options).selection
        curves, notes = tracked_curves(selection.groups, options.experiment), selection.notes
        figure = plot_panels(*curves, options.second)
    found = find_instabilities(curves.frame)
    frames = {"": curves.frame, "_teacher": curves.levels, "_instabilities": found}
    return Drawing({"": figure}, frames, notes=(*notes, *describe(found)))


SCRIPT = Script(
    "fid_curves",
    __doc__,
    draw,
    experiment="nine_teachers",
    also=("paper",),
    add_options=add_options,
)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
