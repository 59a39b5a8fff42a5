"""Guidance's trade-off: FID against CLIP score or alignment, one point a setting, with intervals.

    python analysis/guidance.py --out figures/guidance
    python analysis/guidance.py --experiment EXPERIMENT --csv

Right is the distance that the runs measured (FID where there is one), up the first of their scores
that is the better the higher. Runs' final tables at the generator's K steps, finished runs only.
Crosses are 95 % intervals of the
mean over seeds (none for one seed), small dots the seeds. The teacher stands at each of its step
counts, joined by a line. The arrow shows where better is.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.guidance import collect, plot, summarize


def draw(options: argparse.Namespace) -> Drawing:
    selection = chosen_runs(options, finished=True).selection
    frame = collect(selection.groups)
    frames = {"": frame, "_means": summarize(frame)}
    return Drawing({"": plot(frame)}, frames, notes=(*selection.notes, *frame.attrs["notes"]))


SCRIPT = Script("guidance", __doc__, draw, experiment="guidance")


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
