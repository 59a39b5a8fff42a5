"""Comparisons of runs that were tracked: groups, numbers, tables, figures. Imports no torch.

The report's page is apart, in ``workbench.reports.page``: it reads plans, which bring torch.
"""

from workbench.reports.comparison import Comparison, GroupResult, Verdict, compare
from workbench.reports.figure import draw
from workbench.reports.groups import Group, SeedRun, Selection, make_groups
from workbench.reports.references import select
from workbench.reports.statistics import Difference, Estimate, estimate, welch
from workbench.reports.tables import all_tables, write_csv

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "Group",
    "GroupResult",
    "SeedRun",
    "Selection",
    "Verdict",
    "all_tables",
    "compare",
    "draw",
    "estimate",
    "make_groups",
    "select",
    "welch",
    "write_csv",
]
