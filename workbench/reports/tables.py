"""A comparison as rows of text, and as rows of numbers."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from workbench.errors import RequestError
from workbench.metrics import DRIFT_METRICS, METRICS, Goal, metric_info, title_of
from workbench.reports.comparison import (
    AT_KIMG,
    AT_SECONDS,
    BEST,
    BEST_FRESH,
    LAST,
    Comparison,
    GroupResult,
)
from workbench.reports.evaluated import GroupScore, ScoreComparison
from workbench.reports.groups import Group
from workbench.reports.statistics import Difference, Estimate
from workbench.reports.verdicts import Verdict
from workbench.rounding import rounded

_STATISTICS = (AT_KIMG, AT_SECONDS, BEST, BEST_FRESH, LAST)


class Table(NamedTuple):
    """Text for people: a title, headings and rows."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n"

    def parts(self, most: int = 5) -> list[Table]:
        """The table in equal parts of no more than so many columns beside the first."""
        beside = range(1, len(self.columns))
        count = -(-len(beside) // most)
        found = []
        for part in range(count):
            kept = [0, *beside[part * len(beside) // count : (part + 1) * len(beside) // count]]
            rows = [[row[place] for place in kept] for row in self.rows]
            found.append(Table(self.title, [self.columns[place] for place in kept], rows))
        return found


def all_tables(comparison: Comparison | ScoreComparison) -> list[Table]:
    """All of a comparison, in tables that fit a terminal."""
    if isinstance(comparison, ScoreComparison):
        return _tables_of_scores(comparison)
    wide = [*side_table(comparison).parts(), *drift_table(comparison).parts()]
    found = [score_table(comparison), spread_table(comparison), verdict_table(comparison), *wide]
    return [table for table in found if table.rows]


def _tables_of_scores(comparison: ScoreComparison) -> list[Table]:
    """What each group reached, best first, and which differences the seeds vouch for."""
    what = f"{comparison.metric} against {comparison.reference}, {comparison.steps} steps"
    mixed = len(comparison.protocols) > 1
    how = "MIXED PROTOCOLS" if mixed else f"protocol {comparison.protocols[0]}"
    score = f"{comparison.metric} {metric_info(comparison.metric).arrow}"
    columns = ["variant", "seeds", "kimg", score, "95 % interval", "over"]
    rows = [_score_cells(result) for result in comparison.results]
    several = [(r.group.label, r.estimate) for r in comparison.results if len(r.scores) > 1]
    found = [
        Table(f"{what}; {how}", columns, rows),
        spreads(what, several),
        judged(comparison.verdicts, what),
    ]
    return [table for table in found if table.rows]


def score_table(comparison: Comparison) -> Table:
    """What each group reached, best first; +- is a 95 % interval's half width."""
    metric = comparison.metric
    asked = [
        (statistic, heading)
        for statistic, heading in headings(comparison).items()
        if any(result.get(metric, statistic) for result in comparison.results)
    ]
    rows = [
        [
            result.group.label,
            str(len(result.group.runs)),
            *(number(result.get(metric, statistic)) for statistic, _ in asked),
        ]
        for result in comparison.results
    ]
    title = f"{title_of(metric)}, mean over training seeds ± 95 % interval"
    return Table(title, ["variant", "seeds", *(heading for _, heading in asked)], rows)


def headings(comparison: Comparison) -> dict[str, str]:
    """What the statistics are called."""
    return {
        AT_KIMG: f"at {comparison.kimg:g} kimg",
        AT_SECONDS: f"at {comparison.seconds or 0:.0f} s",
        BEST: "best evaluation",
        BEST_FRESH: "its weights, fresh noise",
        LAST: "last",
    }


def spread_table(comparison: Comparison) -> Table:
    """How far scores scatter, over training seeds and over evaluation seeds apart."""
    found = [
        (result.group.label, own)
        for result in comparison.results
        if (own := result.get(comparison.metric, AT_KIMG)) is not None
    ]
    return spreads(f"{title_of(comparison.metric)} at {comparison.kimg:g} kimg", found)


def spreads(what: str, found: Sequence[tuple[str, Estimate]]) -> Table:
    """Standard deviations, a row for each label."""
    columns = ["variant", "training seeds", "sd over them", "evaluation seeds", "sd over them"]
    rows = [
        [
            label,
            str(own.n),
            _sd(own.training_sd),
            str(len({each.evaluation_seed for each in own.observations})),
            _sd(own.evaluation_sd),
        ]
        for label, own in found
    ]
    return Table(f"Spread of {what}", columns, rows)


def _sd(value: float | None) -> str:
    return "-" if value is None else rounded(value)


def side_table(comparison: Comparison) -> Table:
    """What else decides: the other scores at equal kimg, and the student's cost."""
    others = [name for name in measured_scores(comparison) if name != comparison.metric]
    rows = [
        [
            result.group.label,
            *(number(result.get(name, AT_KIMG)) for name in others),
            number(result.ms_per_image),
            "-" if result.nfe is None else str(result.nfe),
        ]
        for result in comparison.results
    ]
    columns = [f"{title_of(name)} at {comparison.kimg:g} kimg" for name in others]
    return Table("Beside it", ["variant", *columns, "ms/image", "NFE"], rows)


def measured_scores(comparison: Comparison) -> list[str]:
    """The scores that say which group is better, but for the drift, which has its own table."""
    known = {name for result in comparison.results for name in result.scores}
    return [n for n, info in METRICS.items() if n in known - {*DRIFT_METRICS} and info.ranks]


def drift_table(comparison: Comparison) -> Table:
    """How the last samples' look differs from the teacher's, which is 1; no rows without drift."""
    results = comparison.results
    names = [n for n in DRIFT_METRICS if any(result.get(n, LAST) for result in results)]
    rows = [
        [result.group.label, *(number(result.get(name, LAST)) for name in names)]
        for result in results
    ]
    title = "Drift from the teacher, last (student over teacher: 1 = none)"
    return Table(title, ["variant", *map(title_of, names)], rows if names else [])


def verdict_table(comparison: Comparison) -> Table:
    """Every group against the best that several seeds vouch for, or the one that was named."""
    return judged(comparison.verdicts, f"{judged_score(comparison)} at {comparison.kimg:g} kimg")


def judged_score(comparison: Comparison) -> str:
    """What verdicts are differences of: the score, or its distance from a target."""
    info = metric_info(comparison.metric)
    if info.goal is Goal.NEAR and info.target is not None:
        return f"|log({info.title} / {info.target:g})|"
    return info.title


def judged(verdicts: Sequence[Verdict], what: str) -> Table:
    """Verdicts, a row each; the title says against which group."""
    title = f"{what}, against {verdicts[0].reference}" if verdicts else what
    columns = ["variant", "difference", "95 % interval", "p (Holm)", "verdict"]
    rows = [
        [
            verdict.label,
            *difference(verdict.difference),
            "-" if verdict.p is None else f"{verdict.p:.2g}",
            verdict.words,
        ]
        for verdict in verdicts
    ]
    return Table(title, columns, rows)


def number(found: Estimate | None) -> str:
    """0.371±0.012; without interval for one seed; - where there is none."""
    if found is None:
        return "-"
    if found.half is None or math.isnan(found.half):
        return rounded(found.mean)
    return f"{rounded(found.mean, found.half)}±{rounded(found.half, found.half)}"


def difference(found: Difference) -> tuple[str, str]:
    """The difference and its interval."""
    interval = found.interval
    if interval is None:
        return rounded(found.mean, sign=True), "-"
    low, high = (rounded(end, found.half, sign=True) for end in interval)
    return rounded(found.mean, found.half, sign=True), f"{low} to {high}"


def write_csv(comparison: Comparison | ScoreComparison, path: Path) -> None:
    """One row a group, every number in full.

    Raises:
        RequestError: the file cannot be written.
    """
    rows = rows_of(comparison)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise RequestError(f"Cannot write {path}: {error.strerror}.") from None


def rows_of(comparison: Comparison | ScoreComparison) -> list[dict[str, object]]:
    """A comparison's numbers, one row a group, best first, all with the same columns."""
    verdicts = {verdict.label: verdict for verdict in comparison.verdicts}
    if isinstance(comparison, ScoreComparison):
        return [_score_row(comparison, result, verdicts) for result in comparison.results]
    scores = sorted({name for result in comparison.results for name in result.scores})
    return [_row(comparison, result, scores, verdicts) for result in comparison.results]


def _group_cells(group: Group) -> dict[str, object]:
    """What tells a group from all others, in a row of numbers."""
    return {
        "group": group.label,
        "experiment": group.experiment,
        "variant": group.variant,
        "teacher": group.teacher,
        "variant_hash": group.variant_hash,
        "seeds": " ".join(str(seed) for seed in group.seeds),
    }


def _verdict_cells(verdict: Verdict | None) -> dict[str, object]:
    """A group's difference, and from which group, in a row of numbers."""
    low, high = (verdict.difference.interval if verdict else None) or (None, None)
    return {
        "difference_from": verdict.reference if verdict else None,
        "difference": verdict.difference.mean if verdict else None,
        "difference_low": low,
        "difference_high": high,
        "p_holm": verdict.p if verdict else None,
    }


def _row(
    comparison: Comparison,
    result: GroupResult,
    scores: Sequence[str],
    verdicts: Mapping[str, Verdict],
) -> dict[str, object]:
    row = _group_cells(result.group)
    row |= {"equal_kimg": comparison.kimg, "equal_seconds": comparison.seconds}
    for score in scores:
        for statistic in _STATISTICS:
            row |= _csv_cells(f"{score}_{statistic}", result.get(score, statistic))
    row |= _csv_cells("ms_per_image", result.ms_per_image)
    row["nfe"] = result.nfe
    return row | _verdict_cells(verdicts.get(result.group.label))


def _score_row(
    comparison: ScoreComparison, result: GroupScore, verdicts: Mapping[str, Verdict]
) -> dict[str, object]:
    low, high = result.interval or (None, None)
    return {
        **_group_cells(result.group),
        "metric": comparison.metric,
        "reference": comparison.reference,
        "steps": comparison.steps,
        "protocol": " ".join(sorted({own.score.protocol for own in result.scores})),
        "kimg": " ".join(f"{kimg:g}" for kimg in result.kimg),
        "mean": result.estimate.mean,
        "low": low,
        "high": high,
        "interval_over": result.interval_over,
        **_verdict_cells(verdicts.get(result.group.label)),
    }


def _csv_cells(name: str, found: Estimate | None) -> dict[str, object]:
    low, high = (found.interval if found else None) or (None, None)
    mean = None if found is None else found.mean
    return {f"{name}_mean": mean, f"{name}_low": low, f"{name}_high": high}


def _score_cells(result: GroupScore) -> list[str]:
    ends = result.interval
    return [
        result.group.label,
        str(result.estimate.n),
        ", ".join(f"{kimg:g}" for kimg in result.kimg) or "-",
        _short(result.estimate.mean),
        "-" if ends is None else f"{_short(ends[0])} to {_short(ends[1])}",
        result.interval_over or "-",
    ]


def _short(value: float) -> str:
    return f"{value:.4g}"
