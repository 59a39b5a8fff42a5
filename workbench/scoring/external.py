"""Drawing for benchmarks that score elsewhere, and keeping their scores with the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from workbench.errors import RequestError
from workbench.evaluation.external import Benchmark, Export, ExternalScores
from workbench.evaluation.sample_loop import ProgressCallback
from workbench.scoring.external_scores import EXTERNAL, ExternalFile, ExternalName
from workbench.students.models import Drawing, LoadedModel, LoadedStudent
from workbench.students.pictures import WRITERS, checked_prompts, facts
from workbench.students.sampling import sample_model
from workbench.tracking import add_later
from workbench.training.run_folder import RunFolder, find_run, matching_runs
from workbench.workspace import Workspace, written_aside


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
    show: ProgressCallback = lambda done, total: None,
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
            with written_aside(path, durable=False) as partial:
                WRITERS["png"](image, made, partial)
    show(len(paths), len(paths))
    return export


@dataclass(frozen=True)
class Kept:
    """Where imported scores are.

    Attributes:
        file: in the workspace.
        run: that they were logged to; None of a teacher, and of a student of no run here.
        undelivered: operations that the tracking store has not taken yet (``workbench runs sync``
            sends them).
    """

    file: Path
    run: str | None = None
    undelivered: int = 0


def keep_scores(
    workspace: Workspace, export: Export, scores: ExternalScores, tracking_uri: str | None = None
) -> Kept:
    """Keep the scores in the workspace, and log a student's to its run as ``eval/NAME``.

    Scores of fewer sampling steps than the student's own are ``eval/NAME-2steps``.

    Raises:
        RequestError: the run has other scores of this benchmark: nothing is kept then.
        WorkbenchError: the run is going on; its scores are kept, and not logged yet.
    """
    run = _own_run(workspace, export)
    model = export.model if run is None else run.name
    kimg = None if export.nimg is None else export.nimg / 1000
    content = ExternalFile(export.benchmark.name, model, kimg, scores.values, scores.fingerprint)
    known = content.path(workspace).exists()
    file = content.write(workspace)
    if run is None or export.nimg is None:
        return Kept(file)
    values = _tracked(run, export, scores)
    try:
        left = add_later(run.path, values, export.nimg, {EXTERNAL: file}, tracking_uri)
    except RequestError:
        if not known:
            file.unlink()
        raise
    return Kept(file, run.name, left)


def _own_run(workspace: Workspace, export: Export) -> RunFolder | None:
    name = export.sampler.get("run")
    if name is None or not matching_runs(workspace, name):
        return None
    return find_run(workspace, name)


def _tracked(run: RunFolder, export: Export, scores: ExternalScores) -> dict[str, float]:
    steps = int(export.sampler["steps"])
    fewer = None if steps == run.config().generator.steps else steps
    name = ExternalName(export.benchmark.name, fewer)
    # A part of the score, as "geneval/counting", stands below the overall one.
    return {
        name.key + part.removeprefix(name.metric): value for part, value in scores.values.items()
    }


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
