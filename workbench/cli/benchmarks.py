"""workbench benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.cli.bar import image_bar
from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import (
    SAMPLES,
    BatchSizeOption,
    CfgScaleOption,
    JsonOption,
    ModelArgument,
    SeedOption,
    StepsOption,
    TrackingOption,
    WorkspaceOption,
)

if TYPE_CHECKING:
    from workbench.evaluation.external import Export
    from workbench.scoring.external import Kept
    from workbench.workspace import Workspace

app = typer.Typer(
    name="benchmarks",
    no_args_is_help=True,
    help="GenEval and ImageReward: images for their scripts, and scores from their result files.",
)


@app.command(
    epilog="Example:  workbench benchmarks export geneval quickstart geneval-images "
    "--prompts evaluation_metadata.jsonl"
)
def export(
    benchmark: Annotated[
        Literal["geneval", "imagereward"], typer.Argument(help="The benchmark to draw for.")
    ],
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(help="A new folder, or one to be completed.")],
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="The benchmark's own file: evaluation_metadata.jsonl, benchmark-prompts.json.",
            rich_help_panel=SAMPLES,
        ),
    ],
    samples: Annotated[
        int, typer.Option(min=1, help="Images of each prompt.", rich_help_panel=SAMPLES)
    ] = 4,
    steps: StepsOption = None,
    seed: SeedOption = 0,
    cfg_scale: CfgScaleOption = 1.0,
    batch_size: BatchSizeOption = 8,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw a benchmark's images in the layout that its script reads; the same command resumes."""
    from workbench.cli.building import ensure_with_bar
    from workbench.evaluation.external import get_benchmark
    from workbench.scoring.external import BenchmarkRequest, draw_benchmark
    from workbench.students.models import Drawing, load_model
    from workbench.workspace import open_workspace

    request = BenchmarkRequest(get_benchmark(benchmark), prompts, folder, samples)
    place = open_workspace(workspace)
    ensure_with_bar(model, place.teachers)
    loaded = load_model(place, model)
    how = Drawing((), steps or loaded.default_steps[0], seed, None, cfg_scale, batch_size)
    with image_bar("drawing") as show:
        done = draw_benchmark(loaded, request, how, show)
    if json_output:
        count = len(done.prompts)
        print_json({"folder": str(folder), "images": count, "next": _next(done)})
    else:
        say(f"{len(done.prompts)} images. In {benchmark}'s own environment:")
        typer.echo(_next(done))
        say(f"Then: workbench benchmarks import {folder} RESULTS")


@app.command("import", epilog="Example:  workbench benchmarks import geneval-images results.jsonl")
def import_(
    folder: Annotated[
        Path, typer.Argument(help="The folder that `workbench benchmarks export` wrote.")
    ],
    results: Annotated[Path, typer.Argument(help="The result file of the benchmark's script.")],
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Read a benchmark's result file: kept in the workspace, a student's also with its run."""
    from workbench.evaluation.external import import_results, open_export
    from workbench.scoring.external import keep_scores
    from workbench.workspace import open_workspace

    exported = open_export(folder)
    scores = import_results(exported, results)
    place = open_workspace(workspace)
    kept = keep_scores(place, exported, scores, tracking_uri)
    _tell(place, exported, kept)
    if json_output:
        fingerprint = dict(scores.fingerprint)
        told = {"scores": dict(scores.values), "fingerprint": fingerprint}
        print_json({**told, "run": kept.run, "file": str(kept.file)})
    else:
        rows = [[name, f"{value:.4f}"] for name, value in scores.values.items()]
        print_table(["score", "value"], rows, title=exported.model)


def _tell(place: Workspace, exported: Export, kept: Kept) -> None:
    say(f"Kept in {kept.file}.")
    if kept.run is None:
        say(f"Logged to no run: {place.root} has no run of {exported.model}.")
    elif kept.undelivered:
        left = kept.undelivered
        say(f"{left} operations wait for the tracking store; `workbench runs sync` sends them.")
    else:
        say(f"Logged to {kept.run}.")


def _next(exported: Export) -> str:
    return exported.benchmark.how_to_score(exported)
