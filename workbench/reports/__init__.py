"""Comparisons of runs that were tracked: groups, numbers, tables, figures. Imports no torch.

The report's page is apart, in ``workbench.reports.page``: it reads plans, which bring torch.
"""

from workbench.reports.comparison import Comparison, GroupResult, compare, primary_metric
from workbench.reports.evaluated import ScoreComparison, ScoreQuery, compare_scores, is_logged
from workbench.reports.groups import Group, SeedRun, Selection, make_groups
from workbench.reports.references import Chosen, chosen_runs, comparable, select, select_groups
from workbench.reports.score_files import ScoreFiles
from workbench.reports.statistics import (
    Difference,
    Estimate,
    Observation,
    difference,
    estimate,
    estimate_scores,
    holm,
)
from workbench.reports.tables import all_tables, write_csv
from workbench.reports.verdicts import Verdict

__all__ = [
    "Chosen",
    "Comparison",
    "Difference",
    "Estimate",
    "Group",
    "GroupResult",
    "Observation",
    "ScoreComparison",
    "ScoreFiles",
    "ScoreQuery",
    "SeedRun",
    "Selection",
    "Verdict",
    "all_tables",
    "chosen_runs",
    "comparable",
    "compare",
    "compare_scores",
    "difference",
    "estimate",
    "estimate_scores",
    "holm",
    "is_logged",
    "make_groups",
    "primary_metric",
    "select",
    "select_groups",
    "write_csv",
]
