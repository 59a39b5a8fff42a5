"""Tables 1 and 2: the published rows, and ours beside them, as Markdown, LaTeX and CSV.

    python analysis/tables.py --experiment nine_teachers --out tables --csv

Ours are means over seeds, under the family that their teacher belongs to or stands in for: of each
run's final table, of what `workbench evaluate` and `workbench benchmarks import` logged to it, and
of what they kept of its teacher in the workspace. A cell holds scores of one protocol; where there
are several and none is shared, it stays empty (--protocol chooses). Scores on the embedded digits
carry a dagger: their FID is another FID. Cells that nobody measured stay empty and are counted.
"""

import argparse

from workbench.plotting import Drawing, Script
from workbench.reports import chosen_runs
from workbench.reports.figures.tables import add_options, collect_all, latex, markdown


def draw(options: argparse.Namespace) -> Drawing:
    chosen = chosen_runs(options, finished=True, allow_mixed=True)
    frame = collect_all(chosen, options.family, options.protocol)
    texts = {".md": markdown(frame)}
    texts |= {f"_{table}.tex": latex(frame, table) for table in sorted(set(frame["table"]))}
    return Drawing({}, {"": frame}, texts, markdown(frame), frame.attrs["notes"])


SCRIPT = Script(
    "tables",
    __doc__,
    draw,
    experiment="nine_teachers",
    also=("paper",),
    add_options=add_options,
)


if __name__ == "__main__":
    raise SystemExit(SCRIPT.main())
