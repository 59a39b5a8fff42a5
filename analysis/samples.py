"""Figures 1 and 5: the same prompts and noise by several models, one row a model.

    python analysis/samples.py --out figures/samples   # the newest finished run
    python analysis/samples.py --model quickstart --out figures/samples
    python analysis/samples.py --model "SiD=quickstart" "one step=quickstart:1" --seed 3
    python analysis/samples.py --model t_range/0-1 t_range/0-0.5 --prompt "the digit 7"
    python analysis/samples.py teacher=teacher.npz student=student.npz

MODEL is a run (RUN@KIMG for a checkpoint), an exported student's folder or a teacher; :STEPS
follows it, CAPTION= goes before it. Above students stands their teacher, at its most steps and at
the student's, unless --no-teacher says otherwise or it is named. Image i is drawn from --seed + i.

A file holds ``images`` (B, 3, H, W) in [0, 1], the first also ``prompts`` (B,).
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports.figures.samples import add_options, collect, lacking, plot, rows_asked_for


def draw(options: argparse.Namespace) -> Drawing:
    rows, prompts = rows_asked_for(options)
    return Drawing({"": plot(rows, prompts)}, {"": collect(rows, prompts)})


SCRIPT = Script(
    "samples", __doc__, draw, add_options=add_options, lacks=lacking, places=("workspace",)
)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
