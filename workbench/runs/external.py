"""Drawing for benchmarks that score elsewhere, and keeping their scores with the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.evaluation.external import Benchmark, Export, ExternalScores
from workbench.evaluation.viewing import Show
from workbench.runs.folder import RunFolder
from workbench.runs.inference import sample_model
from workbench.runs.models import Drawing, LoadedModel, LoadedStudent
from workbench.runs.pictures import WRITERS, checked_prompts, facts
from workbench.tracking import add_later
from workbench.workspace import write_json

_ARTIFACTS = "external"


@dataclass(frozen=True)
class BenchmarkRequest:
    """What to draw: ``samples`` images of each prompt of the benchmark's own file ``prompts``."""

    benchmark: Benchmark
    prompts: Path
    folder: Path
    samples: int


def draw_benchmark(
    model: LoadedModel,
    request: BenchmarkRequest,
    how: Drawing,
    show: Show = lambda done, total: None,
) -> Export:
    """Draw a benchmark's images into its folder; what is there already stays.

    Image ``sample`` of prompt ``index`` is drawn from ``how.seed + index * samples + sample``.

    Args:
        how: everything but prompts, which the request's replace.
        show: told how many images are done, of how many.

    Raises:
        RequestError: the file is not the benchmark's, or the folder holds something else.
    """
    export = _planned(model, request, how)
    prompts, paths = checked_prompts(export.prompts), list(export.paths())
    export.begin()
    for start in range(0, len(paths), how.batch_size):
        show(start, len(paths))
        places = paths[start : start + how.batch_size]
        if all(path.exists() for path in places):
            continue
        texts = prompts[start : start + how.batch_size]
        seed = how.seed + start
        images = sample_model(model, replace(how, prompts=texts, seed=seed))
        for number, (image, text, path) in enumerate(zip(images, texts, places, strict=True)):
            made = {**export.sampler, "prompt": text, "seed": str(seed + number)}
            partial = path.with_suffix(".part")
            WRITERS["png"](image, made, partial)
            partial.replace(path)
    show(len(paths), len(paths))
    return export


def keep_scores(
    run: RunFolder, export: Export, scores: ExternalScores, tracking_uri: str | None = None
) -> int:
    """Log the scores to their run as ``eval/NAME``, and their fingerprint as a file.

    Scores of fewer sampling steps than the student's own are ``eval/NAME-2steps``.

    Returns:
        How many operations the tracking store has not taken yet (``workbench runs sync`` sends
        them).

    Raises:
        RequestError: the run has other scores of this benchmark.
        WorkbenchError: the model was none of this run, or the run is going on.
    """
    if export.nimg is None:
        raise WorkbenchError(f"{export.model} is no student: its scores belong to no run.")
    steps = int(export.sampler["steps"])
    suffix = "" if steps == run.config().generator.steps else f"-{steps}steps"
    benchmark = export.benchmark.name
    values = {
        f"eval/{name.replace(benchmark, benchmark + suffix, 1)}": value
        for name, value in scores.values.items()
    }
    kept = run.path / _ARTIFACTS / f"{benchmark}-{scores.fingerprint['id']}.json"
    write_json(kept, {"values": dict(scores.values), "fingerprint": dict(scores.fingerprint)})
    return add_later(run.path, values, export.nimg, {_ARTIFACTS: kept}, tracking_uri)


def _planned(model: LoadedModel, request: BenchmarkRequest, how: Drawing) -> Export:
    made = facts(model, how, "")
    sampler = {key: value for key, value in made.items() if key != "command"}
    return Export(
        folder=request.folder,
        benchmark=request.benchmark,
        items=request.benchmark.read_items(request.prompts),
        samples=request.samples,
        model=model.name,
        sampler=sampler,
        nimg=model.nimg if isinstance(model, LoadedStudent) else None,
    )
