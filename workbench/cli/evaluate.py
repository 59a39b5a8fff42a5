"""workbench evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.bar import image_bar
from workbench.cli.common import print_json
from workbench.cli.evaluation_table import print_evaluation
from workbench.cli.options import (
    EXECUTION,
    SAMPLES,
    WHAT,
    CfgScaleOption,
    JsonOption,
    NprocOption,
    Precision,
    PromptsOption,
    TrackingOption,
    WeightsOption,
    WorkspaceOption,
    pairs,
    split_names,
    weight_paths,
    whole_numbers,
)
from workbench.errors import WorkbenchError
from workbench.metrics import METRICS, metric_info

EVALUATED = [n for n, i in METRICS.items() if i.needs_reference or i.weights or i.network]
SURE = "How sure it is"
AS_RUN = "as the model's run or recipe says"


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench evaluate quickstart --steps 4,2,1 --metric fid,kid")(
        evaluate
    )


SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A run by the beginning of its name (RUN@KIMG for a checkpoint), an exported folder, "
        "a teacher, another pipeline's folder, or a folder of images."
    ),
]
MetricListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="METRIC,...",
        help=f"Metrics to measure, comma-separated or repeated: {', '.join(EVALUATED)}.",
        show_default=f"{AS_RUN}, else fid",
        rich_help_panel=WHAT,
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        help="Reference to measure against, one of `workbench references list`.",
        show_default=AS_RUN,
        rich_help_panel=WHAT,
    ),
]
StepListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--steps",
        metavar="STEPS,...",
        help="Sampling steps of an image, each measured. Comma-separated or repeated.",
        show_default="the student's own; 50,20,4 of a teacher; a pipeline's own",
        rich_help_panel=SAMPLES,
    ),
]
SamplesOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Images that each score is taken over.",
        show_default=f"{AS_RUN}, else all captions or images",
        rich_help_panel=SAMPLES,
    ),
]
NoiseSeedListOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="SEED,...",
        help="Seeds of the noise, comma-separated or repeated. Several tell how much of a score is "
        "the noise's.",
        show_default="the run's own, else 0",
        rich_help_panel=SAMPLES,
    ),
]
StockOption = Annotated[
    bool,
    typer.Option(
        "--stock",
        help="Draw with the pipeline's own call, scheduler and guidance, as its users run it.",
        rich_help_panel=SAMPLES,
    ),
]
CallOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Pass a further argument to that call; repeatable.",
        rich_help_panel=SAMPLES,
    ),
]
RoomOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images that are worked on at a time; this changes no result.",
        show_default="what the device has room for",
        rich_help_panel=EXECUTION,
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        help="Precision of the networks that draw.",
        show_default=f"{AS_RUN}, else fp32",
        rich_help_panel=EXECUTION,
    ),
]
KeepOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that every image is written to.",
        show_default="none is written",
        rich_help_panel=SAMPLES,
    ),
]
BootstrapOption = Annotated[
    int,
    typer.Option(
        min=0,
        help="Resamples behind the 95 % interval of recall, the only one that needs any; 0 leaves "
        "out all intervals.",
        rich_help_panel=SURE,
    ),
]
ExtrapolateOption = Annotated[
    bool,
    typer.Option(
        "--extrapolate",
        help="Also extrapolate Frechet distances to infinitely many samples.",
        rich_help_panel=SURE,
    ),
]


def evaluate(
    model: SourceArgument,
    metric: MetricListOption = None,
    reference: ReferenceOption = None,
    weights: WeightsOption = None,
    steps: StepListOption = None,
    prompts: PromptsOption = None,
    samples: SamplesOption = None,
    seed: NoiseSeedListOption = None,
    cfg_scale: CfgScaleOption = 1.0,
    stock: StockOption = False,
    call: CallOption = None,
    batch_size: RoomOption = None,
    precision: PrecisionOption = None,
    nproc: NprocOption = 1,
    keep_images: KeepOption = None,
    bootstrap: BootstrapOption = 200,
    extrapolate: ExtrapolateOption = False,
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

    wanted = split_names(metric, "--metric") if metric else None
    for name in wanted or ():
        metric_info(name)
    drawn = whole_numbers("--seed", seed, below=MOST_SEEDS)
    arguments = {key: _value(text) for key, text in pairs("--call KEY=VALUE", call).items()}
    request = EvaluateRequest(
        source=Asked(
            model, tuple(drawn) if drawn else None, cfg_scale, stock, arguments, precision
        ),
        metrics=wanted,
        reference=reference,
        prompts=prompts,
        samples=samples,
        steps=whole_numbers("--steps", steps, least=1),
        batch_size=batch_size,
        weights=weight_paths(weights),
        bootstrap=bootstrap,
        extrapolate=extrapolate,
        keep_images=keep_images,
        nproc=nproc,
        bar=image_bar,
        workspace=open_workspace(workspace),
    )
    ensure_with_bar(model, request.workspace.teachers)
    evaluation = evaluate_source(request, tracking_uri)
    if json_output:
        rows = [row.as_dict() for row in evaluation.rows]
        print_json({"model": evaluation.rows[0].model, "table": rows})
    else:
        print_evaluation(evaluation)
    if evaluation.unlogged is not None:
        files = ", ".join(str(file) for file in evaluation.files)
        raise WorkbenchError(
            f"Kept in {files}, but not logged to {evaluation.run}: {evaluation.unlogged} The same "
            "command logs them, and draws nothing again."
        )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
