"""workbench evaluate."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.cli.common import JsonOption, WorkspaceOption, print_json, say

WHAT = "What to measure"


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench evaluate quickstart --steps 4,2,1 --metrics fid")(
        evaluate
    )


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Run (any unambiguous beginning), exported folder or teacher.")
    ],
    steps: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated (default: the student's K; 50,20,4).", rich_help_panel=WHAT
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Comma-separated.", rich_help_panel=WHAT)
    ] = "fid,alignment",
    samples: Annotated[
        int, typer.Option(min=2, help="Images per score.", rich_help_panel=WHAT)
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.", rich_help_panel=WHAT)] = 0,
    cfg_scale: Annotated[
        float, typer.Option(help="Guidance of a teacher; 1 = off.", rich_help_panel=WHAT)
    ] = 1.0,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Score a run's student, or a teacher, at one or more step counts."""
    from workbench.cli.building import ensure_with_bar
    from workbench.cli.outcomes import print_results
    from workbench.errors import RequestError, unknown_name
    from workbench.evaluation import DIGITS_METRICS
    from workbench.runs import evaluate_model, load_model
    from workbench.training.config import evaluation_settings
    from workbench.workspace import open_workspace

    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    for name in wanted:
        if name not in DIGITS_METRICS:
            raise unknown_name("metric", name, DIGITS_METRICS)
    try:
        counts = [int(part) for part in steps.split(",")] if steps else None
    except ValueError:
        raise RequestError(f"--steps {steps!r}: expected numbers like 4,2,1.") from None
    if counts and min(counts) < 1:
        raise RequestError(f"--steps {steps!r}: every step count must be at least 1.")
    place = open_workspace(workspace)
    ensure_with_bar(model, place.teachers)
    loaded = load_model(place, model)
    settings = evaluation_settings({"seed": seed, "cfg_scale": cfg_scale, "samples": samples})
    say(f"Measuring {loaded.name} with {samples} samples.")
    rows = evaluate_model(place, loaded, counts or loaded.default_steps, settings, wanted)
    table = [row.as_dict() for row in rows]
    if json_output:
        print_json({"model": loaded.name, "table": table})
    else:
        print_results(table, loaded.name)
