"""Students of an analytic teacher against the truth: samples, distances and modes.

    python analysis/analytic.py --experiment analytic

draws, from the finished runs in the workspace, samples of the truth, of the exact teacher at few
Euler steps and of each variant's student, and writes a table of every model's distance to the
truth: how far it stays above the distance between two fresh samples of the truth, and in what
(shares of modes, their standard deviations, cores and means). With several seeds: means and 95 %
intervals.

The core of a mode is the interquartile range of its samples as a normal distribution's std, in the
direction where it is least and in that where it is most: a line with a few far samples has the std
of a disc, but not its cores. Scores that a run did not have yet are computed from its samples.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports.figures.analytic import gather, plot, table
from workbench.training.run_folder import all_runs
from workbench.workspace import open_workspace


def draw(options: argparse.Namespace) -> Drawing:
    workspace = open_workspace(options.workspace, create=False)
    runs = [run for run in all_runs(workspace) if run.path.parent.name == options.experiment]
    found = gather(runs)
    text = table(found)
    frames = {"": found.scores, "_modes": found.modes}
    return Drawing({"": plot(found)}, frames, {".md": text}, printed=text)


SCRIPT = Script("analytic", __doc__, draw, experiment="analytic", places=("workspace",))


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
