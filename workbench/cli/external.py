"""workbench external."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from workbench.evaluation.external import Export
    from workbench.scoring.external import Kept
    from workbench.workspace import Workspace

WHAT = "What to draw"

app = typer.Typer(
    name="external",
    no_args_is_help=True,
    help="GenEval and ImageReward: images for their scripts, and scores from their result files.",
)


@app.command(
    epilog="Example:  workbench external export geneval quickstart geneval-images "
    "--prompts evaluation_metadata.jsonl"
)
def export(
    benchmark: Annotated[str, typer.Argument(help="geneval or imagereward.")],
    model: Annotated[str, typer.Argument(help="Run, exported folder or teacher, as in sample.")],
    folder: Annotated[Path, typer.Argument(help="New folder, or one to be completed.")],
    prompts: Annotated[
        Path,
        typer.Option(
            help="The benchmark's own file: evaluation_metadata.jsonl, benchmark-prompts.json.",
            rich_help_panel=WHAT,
        ),
    ],
    samples: Annotated[
        int, typer.Option(min=1, help="Images of each prompt.", rich_help_panel=WHAT)
    ] = 4,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="(default: the student's K, or 50)", rich_help_panel=WHAT),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the first image.", rich_help_panel=WHAT)] = 0,
    cfg_scale: Annotated[
        float, typer.Option(help="Guidance of a teacher; 1 = off.", rich_help_panel=WHAT)
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
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
        say(f"Then: workbench external import {folder} RESULTS")


@app.command("import", epilog="Example:  workbench external import geneval-images results.jsonl")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that `export` wrote.")],
    results: Annotated[Path, typer.Argument(help="Result file of the benchmark's script.")],
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
