"""What an evaluation looks like on stdout."""

from __future__ import annotations

from statistics import stdev
from typing import TYPE_CHECKING

from workbench.cli.common import print_table, say
from workbench.metrics import ACCURACY, metric_info

if TYPE_CHECKING:
    from workbench.scoring.scored_rows import Evaluation, Score, ScoredRow


def print_evaluation(evaluation: Evaluation) -> None:
    """Its scores, over several seeds their means, and where all of it is kept."""
    first = evaluation.rows[0]
    columns = ["steps", "NFE", "seed", "metric", "score", "95 % interval", "bias", "N = inf"]
    columns += ["ms/image"]
    several = len({row.seed for row in evaluation.rows}) > 1
    rows = [_cells(row, score, several) for row in evaluation.rows for score in row.scores]
    shown = [
        column
        for column, name in enumerate(columns)
        if name in ("metric", "score") or any(row[column] for row in rows)
    ]
    print_table(
        [columns[column] for column in shown],
        [[row[column] for column in shown] for row in rows],
        f"{first.model} ({first.kind}), {first.samples} samples against {first.reference}",
    )
    if several:
        _show_spread(evaluation)
    for row, file in zip(evaluation.rows, evaluation.files, strict=True):
        steps = f"{row.steps} steps: " if row.steps is not None else ""
        steps += f"{row.how}; " if row.how else ""
        say(f"{steps}fingerprint {row.fingerprint['id']}, kept in {file}")
    if any(score.bias is not None for score in first.scores):
        say("bias: about what finite N adds to a Frechet distance; it is part of the score.")
    judged = {s.name: s.fingerprint[ACCURACY] for s in first.scores if ACCURACY in s.fingerprint}
    for accuracy in dict.fromkeys(judged.values()):
        names = ", ".join(name for name in judged if judged[name] == accuracy)
        say(f"{names}: judged by a network that is right of {float(accuracy):.2%} of real images.")
    if evaluation.run is not None and evaluation.unlogged is None:
        say(f"Logged to {evaluation.run}.")
    if evaluation.undelivered:
        say(
            f"{evaluation.undelivered} operations wait for the tracking store; `workbench runs "
            "sync` sends them."
        )


def _show_spread(evaluation: Evaluation) -> None:
    """Means over evaluation seeds, with what another noise would change."""
    from workbench.reports.statistics import estimate

    found: dict[tuple[int | None, str], list[float]] = {}
    for row in evaluation.rows:
        for score in row.scores:
            found.setdefault((row.steps, score.name), []).append(score.value)
    rows = []
    for (steps, name), values in found.items():
        own = estimate(values)
        ends = own.interval
        told = "" if ends is None else f"{_number(ends[0])} to {_number(ends[1])}"
        heading = f"{name} {metric_info(name).arrow}"
        rows.append([str(steps), heading, _number(own.mean), told, f"{stdev(values):.2g}"])
    seeds = len({row.seed for row in evaluation.rows})
    columns = ["steps", "metric", "mean", "95 % interval", "sd over evaluation seeds"]
    print_table(columns, rows, f"Over {seeds} evaluation seeds, of these weights")


def _cells(row: ScoredRow, score: Score, several: bool = False) -> list[str]:
    limit, ends = score.extrapolated, score.interval
    return [
        "" if row.steps is None else str(row.steps),
        "" if row.steps is None else f"{row.nfe:g}",
        str(row.seed) if several else "",
        f"{score.name} {metric_info(score.name).arrow}",
        _number(score.value),
        "" if ends is None else f"{_number(ends.low)} to {_number(ends.high)}",
        "" if score.bias is None else f"{score.bias:+.2g}",
        ""
        if limit is None
        else f"{_number(limit.value)} ({_number(limit.interval.low)} to "
        f"{_number(limit.interval.high)})",
        f"{row.ms_per_image:.2f}",
    ]


def _number(value: float) -> str:
    return f"{value:.4g}"
