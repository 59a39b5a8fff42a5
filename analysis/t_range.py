"""Figure 3: students distilled on ranges of t, one row a range, one column a prompt, equal noise.

    python analysis/t_range.py --out figures/t_range --csv
    python analysis/t_range.py --prompt "the digit 1" "four written by hand"

Beside each row: FID, or else the first distance that the runs measured, and their first score that
is the better the higher, at equal kimg, mean over seeds with the 95 % interval's half width; only
finished runs count. Images are those of the lowest seed, picked by no score. They are drawn from
the runs' newest checkpoints, image i from --seed + i, below the teacher's.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.t_range import COLUMNS, collect, default_prompts, draw_images, plot


def draw(options: argparse.Namespace) -> Drawing:
    selection, workspace, _ = chosen_runs(options, finished=True)
    prompts = options.prompt or default_prompts(selection.groups)
    shown = draw_images(workspace, selection.groups, prompts, options.seed)
    frame = collect(selection.groups)
    figure = plot(frame, shown.images, prompts, shown.above)
    return Drawing({"": figure}, {"": frame}, notes=(*selection.notes, *shown.notes(frame)))


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        nargs="+",
        default=[],
        help=f"one a column (default: the first {COLUMNS} that the runs show)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first column's noise")


SCRIPT = Script("t_range", __doc__, draw, experiment="t_range", add_options=add_options)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
