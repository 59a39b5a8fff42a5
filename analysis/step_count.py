"""FID and CLIP score or alignment against the steps that a student takes, one line a K trained.

    python analysis/step_count.py --out figures/step_count --csv

Points are means over seeds with 95 % intervals; the large filled one is the K that the student was
trained with. Dashed: the teacher at its most steps; crosses: the teacher at as few.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.step_count import collect, plot


def draw(options: argparse.Namespace) -> Drawing:
    selection = chosen_runs(options, finished=True).selection
    frame = collect(selection.groups)
    notes = (*selection.notes, *frame.attrs["notes"])
    return Drawing({"": plot(frame, selection.groups)}, {"": frame}, notes=notes)


SCRIPT = Script("step_count", __doc__, draw, experiment="step_count")


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
