"""Figure 2: densities of t, and what they become under the generator's weightings.

    python analysis/schedule_density.py --out figures/schedule_density --csv
    python analysis/schedule_density.py --width column --register my_densities.py

Columns are densities of t, rows weightings w(t): each panel shows w(t) p(t), normalized. Curves
come from closed forms, the histogram behind each from samples. Where w(t) p(t) has no integral up
to an end of (0, 1), the panel leaves out a billionth of the density's probability there, and says
so: "cut" in the panel, "lower" and "upper" in the CSV.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports.figures.schedule_density import (
    WIDTHS,
    add_options,
    collect,
    collect_bins,
    make_cells,
    notes_of,
    plot,
    register_file,
    summarize,
)


def draw(options: argparse.Namespace) -> Drawing:
    for file in options.register:
        register_file(file)
    cells = make_cells(everything=options.all)
    frame, bins, summary = collect(cells), collect_bins(cells), summarize(cells)
    figure = plot(frame, bins, summary, width=WIDTHS[options.width])
    frames = {"": frame, "_bins": bins, "_cells": summary}
    return Drawing({"": figure}, frames, notes=notes_of(summary, everything=options.all))


SCRIPT = Script(
    "schedule_density",
    __doc__,
    draw,
    add_options=add_options,
    lacks=lambda workspace: None,
    places=(),
)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
