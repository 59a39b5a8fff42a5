"""An evaluation as a person asks for it: sharded, cached, with intervals and fingerprints."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import (
    Evaluator,
    FeatureCache,
    FeatureExtractors,
    FeatureTable,
    FrechetMetric,
    ImageSink,
    Metric,
    Sampler,
)
from workbench.evaluation.design import Design
from workbench.evaluation.intervals import (
    check_extrapolation,
    check_interval,
    extrapolate,
    frechet_bias,
    interval,
)
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.sample_loop import ProgressCallback
from workbench.hashing import fingerprint
from workbench.metrics import metric_info
from workbench.scoring.kept_images import KeptImages, claim_folder
from workbench.scoring.kept_scores import ARTIFACTS
from workbench.scoring.protocol import Protocol, choose_protocol
from workbench.scoring.scored_rows import Evaluation, Score, ScoredRow, keep_row
from workbench.scoring.sources import Asked, ModelSource, Source, open_source
from workbench.tracking import add_later, check_uri, read_points
from workbench.training.launch import launch, world_size
from workbench.training.parallel import Ranks, init_distributed
from workbench.training.run_folder import RunFolder
from workbench.workspace import Workspace

LOG = logging.getLogger(__name__)


@contextmanager
def _no_bar(what: str) -> Iterator[ProgressCallback]:
    yield lambda done, total: None


@dataclass(frozen=True)
class EvaluateRequest:
    """What is measured, and how. It travels between processes.

    What is None is as the source says: a run's student is measured as its run was, a teacher as its
    recipe says.

    Attributes:
        metrics: where nobody says, fid, and what judges by the prompts of bundled data.
        reference: None where nobody says, for metrics that need none.
        samples: where nobody says, as many as there are prompts, captions or images.
        steps: None = the source's own.
        weights: files of networks by name.
        bootstrap: resamples of an interval that needs them; 0 = no intervals of scores.
        extrapolate: whether Frechet distances are also taken to infinite N.
        keep_images: folder that every image is written to.
        bar: shows one sampler's progress.
    """

    workspace: Workspace
    source: Asked
    metrics: Sequence[str] | None = None
    reference: str | None = None
    prompts: Path | None = None
    samples: int | None = None
    steps: Sequence[int] | None = None
    batch_size: int | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)
    bootstrap: int = 0
    extrapolate: bool = False
    keep_images: Path | None = None
    nproc: int = 1
    bar: Callable[[str], AbstractContextManager[ProgressCallback]] = _no_bar


def evaluate_source(request: EvaluateRequest, tracking_uri: str | None = None) -> Evaluation:
    """Measure, keep the scores in ``<workspace>/evaluations``, and log a run's to its MLflow run.

    Raises:
        RequestError: anything in the request that is wrong; see the parts.
        WorkbenchError: an image or a score that is not finite: nothing is kept then.
    """
    for name in request.metrics or ():
        metric_info(name)
    world_size(request.nproc)
    if tracking_uri is not None:
        check_uri(tracking_uri)
    rows, run = launch(_on_ranks, request.nproc, request)
    if run is not None:
        rows = [replace(row, kimg=run[1] / 1000) for row in rows]
    files = tuple(keep_row(request.workspace, row) for row in rows)
    evaluation = Evaluation(tuple(rows), files)
    return evaluation if run is None else _logged(evaluation, run[0], run[1], tracking_uri)


def _logged(
    evaluation: Evaluation, folder: RunFolder, nimg: int, tracking_uri: str | None
) -> Evaluation:
    """With the scores in the run's MLflow run; or why not: what was measured stays measured."""
    left = 0
    try:
        for row, file in zip(evaluation.rows, evaluation.files, strict=True):
            values = row.tracked()
            # Measured again, the same score may differ in its last bits: the first one stays.
            there = {p.key for p in read_points(folder.path, set(values)) if p.step == nimg}
            values = {name: value for name, value in values.items() if name not in there}
            left = add_later(folder.path, values, nimg, {ARTIFACTS: file}, tracking_uri)
    except WorkbenchError as error:
        return replace(evaluation, run=folder.name, unlogged=str(error))
    return replace(evaluation, run=folder.name, undelivered=left)


def _on_ranks(request: EvaluateRequest) -> Any:
    with init_distributed() as ranks:
        source = open_source(request.workspace, request.source, ranks.device)
        if ranks.is_main and isinstance(source, ModelSource) and source.elsewhere is not None:
            LOG.warning(
                "%s is no run of this workspace: its scores are kept here and logged to no run.",
                source.elsewhere,
            )
        chosen = choose_protocol(request, source)
        weights = WeightFiles(request.workspace.root / "weights", chosen.weights)
        extractors = FeatureExtractors(request.workspace.cache, weights, ranks.device)
        # Rank 0 first: it trains the classifier, downloads and pins for all.
        metrics = chosen.make_metrics(extractors) if ranks.is_main else ()
        ranks.any(False)
        metrics = metrics or chosen.make_metrics(extractors)
        weights.check_all_used()
        batch_size = request.batch_size or source.batch_size(ranks.device)
        batch_size = ranks.broadcast(batch_size)
        prompts = chosen.prompts
        evaluator = Evaluator(metrics, prompts, batch_size=batch_size, precision=source.precision)
        _check_certainty(request, evaluator)
        seeds = request.source.seeds or (source.seed,)
        drawn = [(source.at_seed(seed), replace(evaluator, seed=seed)) for seed in seeds]
        # All of them before the first draws: a wrong one must not end hours of work.
        jobs = [
            (own, its, own.sampler(steps, prompts), _sink(request, own, its, steps, ranks))
            for own, its in drawn
            for steps in _step_counts(request, source)
        ]
        rows = [
            _row(request, own, chosen, its, sampler, sink, ranks)
            for own, its, sampler, sink in jobs
        ]
        return rows, source.run


def _check_certainty(request: EvaluateRequest, evaluator: Evaluator) -> None:
    """Refuse before anything is drawn what could not be said after it."""
    for metric in evaluator.metrics:
        if request.bootstrap:
            check_interval(metric, evaluator.samples, request.bootstrap)
        if request.extrapolate and isinstance(metric, FrechetMetric):
            check_extrapolation(metric, evaluator.samples)
    if request.extrapolate and not any(isinstance(m, FrechetMetric) for m in evaluator.metrics):
        raise RequestError("--extrapolate is of Frechet distances: ask for fid among --metric.")


def _step_counts(request: EvaluateRequest, source: Source) -> Sequence[int]:
    if source.default_steps is None:
        if request.steps is not None:
            raise RequestError(f"{source.name} is a folder of images: drop --steps.")
        return (1,)
    return request.steps or source.default_steps


def _row(
    request: EvaluateRequest,
    source: Source,
    chosen: Protocol,
    evaluator: Evaluator,
    sampler: Sampler,
    sink: ImageSink | None,
    ranks: Ranks,
) -> ScoredRow:
    steps = sampler.steps
    identity = source.identity(steps)
    # The fingerprint names versions: rows of other ones are not those that it speaks of.
    made_by = {**identity, "versions": evaluator.versions}
    cache = FeatureCache(request.workspace.cache / "features", made_by)
    what = f"{source.name}, {steps} steps" if source.default_steps else source.name
    what += f", seed {source.seed}" if len(request.source.seeds or ()) > 1 else ""
    with request.bar(what) as show:
        result = evaluator.sample_loop(cache, show, sink).run(sampler, ranks)
    values = evaluator.scores(result.table, ranks)
    scores: tuple[Score, ...] = ()
    if ranks.is_main:
        scores = tuple(
            _score(request, evaluator, metric, values[metric.name], identity, result.table)
            for metric in evaluator.metrics
        )
    return ScoredRow(
        model=source.name,
        kind=source.kind(),
        reference=chosen.reference_name,
        samples=evaluator.samples,
        steps=steps if source.default_steps else None,
        nfe=result.nfe,
        ms_per_image=result.ms_per_image,
        scores=scores,
        fingerprint=evaluator.fingerprint(steps),
        how=source.how(steps),
    )


def _score(
    request: EvaluateRequest,
    evaluator: Evaluator,
    metric: Metric,
    value: float,
    identity: Mapping[str, object],
    table: FeatureTable,
) -> Score:
    fingerprint = evaluator.fingerprint_of(metric, identity)
    design = Design(evaluator.prompts, request.bootstrap, int(fingerprint["id"], 16))
    rows = table.rows(metric.extractor.key, evaluator.samples)
    score = Score(metric.name, value, fingerprint)
    if request.bootstrap:
        score = replace(score, interval=interval(metric, rows, value, design))
    if isinstance(metric, FrechetMetric):
        score = replace(score, bias=frechet_bias(metric, rows, value, design))
        if request.extrapolate:
            score = replace(score, extrapolated=extrapolate(metric, rows, design))
    return score


def _sink(
    request: EvaluateRequest, source: Source, evaluator: Evaluator, steps: int, ranks: Ranks
) -> KeptImages | None:
    """Where one sampler's images go, if they are wanted.

    Raises:
        RequestError: the source is a folder of images already, or the place is taken.
    """
    if request.keep_images is None:
        return None
    if source.default_steps is None:
        raise RequestError(f"{source.name} is a folder of images already: drop --keep-images.")
    several = len(request.source.seeds or ()) > 1
    place = request.keep_images / f"seed-{source.seed}" if several else request.keep_images
    folder = place / f"{steps}-steps"
    if not ranks.is_main:
        return KeptImages(folder)
    return claim_folder(
        folder, fingerprint([source.identity(steps), evaluator.fingerprint(steps)["prompts"]])
    )
