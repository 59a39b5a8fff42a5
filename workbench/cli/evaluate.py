"""workbench evaluate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.bar import image_bar
from workbench.cli.common import (
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    print_json,
    print_table,
    say,
)
from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.metrics import METRICS, metric_info

if TYPE_CHECKING:
    from workbench.scoring.scored_rows import Evaluation, Score, ScoredRow

EVALUATED = [n for n, i in METRICS.items() if i.needs_reference or i.weights or i.network]
WHAT = "What to measure"
SAMPLES = "Which samples"
SURE = "How sure it is"


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench evaluate quickstart --steps 4,2,1 --metrics fid,kid")(
        evaluate
    )


WeightsOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="File of a network's weights; repeatable (default: WORKSPACE/weights).",
    ),
]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Run (any unambiguous beginning; RUN@KIMG), exported folder, teacher, other "
            "pipeline's folder, or folder of images."
        ),
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help=f"Comma-separated: {', '.join(EVALUATED)} (default: as the model's run or recipe "
            "says, else fid).",
            rich_help_panel=WHAT,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="One of references list (default: as the model's run or recipe says).",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    weights: WeightsOption = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated (default: the student's K; 50,20,4; a pipeline's own).",
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts: .txt, .jsonl or .parquet (default: the reference's captions).",
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Images per score (default: as the model's run or recipe says, else all captions "
            "or images).",
            show_default=False,
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            "--seed",
            help="Evaluation seeds, of the noise, comma-separated (default: the run's own, else "
            "0). Several tell how much the noise adds.",
            show_default=False,
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    cfg_scale: Annotated[
        float,
        typer.Option(help="Guidance of a teacher; 1 = off.", rich_help_panel=SAMPLES),
    ] = 1.0,
    stock: Annotated[
        bool,
        typer.Option(
            "--stock",
            help="A pipeline's or teacher's own call, scheduler and guidance, as its users run it.",
            rich_help_panel=SAMPLES,
        ),
    ] = False,
    call: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A further argument of that call; repeatable.",
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images at a time (default: what the device has room for).",
            show_default=False,
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="Of the networks that draw: fp32 or bf16 (default: as the run or recipe "
            "says, else fp32).",
            show_default=False,
            rich_help_panel=SAMPLES,
        ),
    ] = None,
    nproc: Annotated[
        int, typer.Option(min=1, help="Processes to share the work.", rich_help_panel=SAMPLES)
    ] = 1,
    keep_images: Annotated[
        Path | None,
        typer.Option(
            help="Folder for every image (else none is written).", rich_help_panel=SAMPLES
        ),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            min=0,
            help="Resamples of recall's 95 % interval, the others need none; 0 = no intervals.",
            rich_help_panel=SURE,
        ),
    ] = 200,
    extrapolate: Annotated[
        bool,
        typer.Option(
            "--extrapolate", help="Frechet distances at infinite N too.", rich_help_panel=SURE
        ),
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Score a run's student, a teacher, any diffusers pipeline or a folder of images.

    The same command continues where it was cut off, and another metric on the same network draws
    nothing again. Each score is kept with all that decides it; a run's go to its MLflow run too.
    """
    from workbench.cli.building import ensure_with_bar
    from workbench.scoring.evaluate import EvaluateRequest, evaluate_source
    from workbench.scoring.sources import Asked
    from workbench.training.evaluation_config import MOST_SEEDS
    from workbench.workspace import open_workspace

    wanted = None if metrics is None else split_names(metrics)
    for name in wanted or ():
        metric_info(name)
    if precision not in (None, "fp32", "bf16"):
        raise unknown_name("precision", str(precision), ("fp32", "bf16"))
    counts = whole_numbers("--steps", steps, least=1)
    drawn = whole_numbers("--seeds", seeds, least=0)
    if drawn and max(drawn) >= MOST_SEEDS:
        raise RequestError(f"--seeds {seeds!r}: each must be below {MOST_SEEDS}.")
    given = weight_paths(weights)
    asked = Asked(model, tuple(drawn) if drawn else None, cfg_scale, stock, _call(call), precision)
    place = open_workspace(workspace)
    ensure_with_bar(model, place.teachers)
    request = EvaluateRequest(
        workspace=place,
        source=asked,
        metrics=wanted,
        reference=reference,
        prompts=prompts,
        samples=samples,
        steps=counts,
        batch_size=batch_size,
        weights=given,
        bootstrap=bootstrap,
        extrapolate=extrapolate,
        keep_images=keep_images,
        nproc=nproc,
        bar=image_bar,
    )
    evaluation = evaluate_source(request, tracking_uri)
    if json_output:
        rows = [row.as_dict() for row in evaluation.rows]
        print_json({"model": evaluation.rows[0].model, "table": rows})
    else:
        _show(evaluation)
    if evaluation.unlogged is not None:
        files = ", ".join(str(file) for file in evaluation.files)
        raise WorkbenchError(
            f"Kept in {files}, but not logged to {evaluation.run}: {evaluation.unlogged} The same "
            "command logs them, and draws nothing again."
        )


def split_names(text: str) -> list[str]:
    """Distinct names of a comma-separated list.

    Raises:
        RequestError: there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise RequestError(f"Expected comma-separated names, not {text!r}.")
    return names


def weight_paths(assignments: Sequence[str] | None) -> dict[str, Path]:
    """``NAME=PATH`` options.

    Raises:
        RequestError: one that is none.
    """
    return {name: Path(path) for name, path in _pairs("--weights NAME=PATH", assignments)}


def _call(assignments: Sequence[str] | None) -> dict[str, Any]:
    return {key: _value(text) for key, text in _pairs("--call KEY=VALUE", assignments)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _pairs(form: str, assignments: Sequence[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for text in assignments or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise RequestError(f"Expected {form}, not {text!r}.")
        pairs.append((key, value))
    return pairs


def whole_numbers(option: str, text: str | None, *, least: int) -> list[int] | None:
    """Distinct numbers of a comma-separated list.

    Raises:
        RequestError: one that is no whole number, or below ``least``.
    """
    try:
        found = None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"{option} {text!r}: expected numbers like 4,2,1.") from None
    if found and min(found) < least:
        raise RequestError(f"{option} {text!r}: each must be at least {least}.")
    return list(dict.fromkeys(found)) if found else None


def _show(evaluation: Evaluation) -> None:
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
