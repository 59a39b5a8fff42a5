"""A comparison of scores that ``workbench evaluate`` logged, as text and as numbers."""

from __future__ import annotations

from pathlib import Path

from workbench.metrics import metric_info
from workbench.reports.scores import GroupScore, ScoreComparison
from workbench.reports.tables import (
    Table,
    group_cells,
    judged,
    spreads,
    verdict_cells,
    write_rows,
)


def tables_of_scores(comparison: ScoreComparison) -> list[Table]:
    """What each group reached, best first, and which differences the seeds vouch for."""
    what = f"{comparison.metric} against {comparison.reference}, {comparison.steps} steps"
    mixed = len(comparison.protocols) > 1
    how = "MIXED PROTOCOLS" if mixed else f"protocol {comparison.protocols[0]}"
    score = f"{comparison.metric} {metric_info(comparison.metric).arrow}"
    columns = ["variant", "seeds", "kimg", score, "95 % interval", "over"]
    rows = [_cells(result) for result in comparison.results]
    several = [(r.group.label, r.estimate) for r in comparison.results if len(r.scores) > 1]
    found = [
        Table(f"{what}; {how}", columns, rows),
        spreads(what, several),
        judged(comparison.verdicts, what),
    ]
    return [table for table in found if table.rows]


def write_scores_csv(comparison: ScoreComparison, path: Path) -> None:
    """One row a group, every number in full.

    Raises:
        RequestError: the file cannot be written.
    """
    verdicts = {verdict.label: verdict for verdict in comparison.verdicts}
    rows = []
    for result in comparison.results:
        low, high = result.interval or (None, None)
        rows.append(
            {
                **group_cells(result.group),
                "metric": comparison.metric,
                "reference": comparison.reference,
                "steps": comparison.steps,
                "protocol": " ".join(sorted({score.name.protocol for score in result.scores})),
                "kimg": " ".join(f"{kimg:g}" for kimg in result.kimg),
                "mean": result.estimate.mean,
                "low": low,
                "high": high,
                "interval_over": result.interval_over,
                **verdict_cells(verdicts.get(result.group.label)),
            }
        )
    write_rows(rows, path)


def _cells(result: GroupScore) -> list[str]:
    ends = result.interval
    return [
        result.group.label,
        str(result.estimate.n),
        ", ".join(f"{kimg:g}" for kimg in result.kimg) or "-",
        _number(result.estimate.mean),
        "-" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}",
        result.interval_over or "-",
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"
