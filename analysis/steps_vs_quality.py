"""Quality against cost: the teacher at many step counts, students, and the Pareto front.

    workbench evaluate digits-sana --steps 50,32,16,8,4,2,1   # more points of the teacher
    python analysis/steps_vs_quality.py --out figures/steps_vs_quality --csv

FID, or else the first distance that the runs measured, against network evaluations (left) and
against milliseconds per image (right). Students are means over seeds with 95 % intervals, at every
step count that their runs measured; large filled: all K steps. The grey staircase is the front:
ringed points whose distance no cheaper one reaches.
The teacher's points come from the runs' final tables and from what ``workbench evaluate`` kept in
the workspace by the same protocol, guidance and weights. The students' times come from there too,
for runs that were evaluated by their own protocol. To compare times, evaluate all of them one after
the other on a machine that does nothing else.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.steps_vs_quality import collect, plot


def draw(options: argparse.Namespace) -> Drawing:
    selection, workspace, _ = chosen_runs(options, finished=True)
    frame = collect(selection.groups, workspace)
    notes = (*selection.notes, *frame.attrs["notes"])
    return Drawing({"": plot(frame)}, {"": frame}, notes=notes)


SCRIPT = Script("steps_vs_quality", __doc__, draw, experiment="step_count")


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
