"""An evaluation as a person asks for it: sharded, cached, with intervals and fingerprints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation import (
    Evaluator,
    Extrapolation,
    FeatureCache,
    FrechetMetric,
    Interval,
    Metric,
    Observations,
    Observers,
    Peers,
    Reference,
    Sampler,
    check_names,
    make_metrics,
    open_reference,
)
from workbench.evaluation.catalog import NEED_PROMPTS
from workbench.evaluation.hashing import short_hash
from workbench.evaluation.intervals import (
    check_extrapolation,
    check_interval,
    extrapolate,
    frechet_bias,
    interval,
)
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.observers import observer_key
from workbench.evaluation.viewing import Show
from workbench.runs.evaluate_sources import Asked, Source, open_source
from workbench.runs.pictures import WRITERS
from workbench.teachers.prompt_sources import PromptsConfig, read_prompts
from workbench.tracking import add_later, read_points
from workbench.training.parallel import Ranks, joined_ranks, launch, refuse_foreign_ranks
from workbench.workspace import Workspace, write_json

DEFAULT_SAMPLES = 2000
"""Where the reference has prompts for any number."""

_ARTIFACTS = "evaluations"


@contextmanager
def _no_bar(what: str) -> Iterator[Show]:
    yield lambda done, total: None


@dataclass(frozen=True)
class EvaluateRequest:
    """What is measured, and how. It travels between processes.

    Attributes:
        samples: None = as many as there are prompts or images; of ``digits`` 2000.
        steps: None = the source's own.
        weights: files of networks by name.
        bootstrap: resamples of each interval; 0 = no intervals.
        extrapolate: whether Frechet distances are also taken to infinite N.
        keep_images: folder that every image is written to.
        bar: shows one sampler's progress.
    """

    workspace: Workspace
    source: Asked
    metrics: Sequence[str]
    reference: str
    prompts: Path | None = None
    samples: int | None = None
    steps: Sequence[int] | None = None
    batch_size: int = 250
    weights: Mapping[str, Path] = field(default_factory=dict)
    bootstrap: int = 0
    extrapolate: bool = False
    keep_images: Path | None = None
    nproc: int = 1
    bar: Callable[[str], AbstractContextManager[Show]] = _no_bar


@dataclass(frozen=True)
class Score:
    """One score with all that decides it; ``bias`` is what finite N adds to a Frechet distance."""

    name: str
    value: float
    lower_is_better: bool
    fingerprint: Mapping[str, Any]
    interval: Interval | None = None
    bias: float | None = None
    extrapolated: Extrapolation | None = None


@dataclass(frozen=True)
class ScoredRow:
    """One sampler's scores. ``steps`` is None for images."""

    model: str
    kind: str
    reference: str
    samples: int
    steps: int | None
    nfe: float
    ms_per_image: float
    scores: tuple[Score, ...]
    fingerprint: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Scores by name beside the sampler's own columns; all about each under ``scores``."""
        head = {"model": self.kind, "steps": self.steps, "nfe": self.nfe}
        values = {score.name: score.value for score in self.scores}
        return {
            **head,
            **values,
            "ms_per_image": self.ms_per_image,
            "fingerprint": dict(self.fingerprint),
            "name": self.model,
            "reference": self.reference,
            "samples": self.samples,
            "scores": {score.name: asdict(score) for score in self.scores},
        }


@dataclass(frozen=True)
class Evaluation:
    """Rows, the files that keep them, and operations the tracking store has not taken yet.

    ``run`` is the run that the scores were logged to, if any.
    """

    rows: tuple[ScoredRow, ...]
    files: tuple[Path, ...] = ()
    run: str | None = None
    undelivered: int = 0


def evaluate_source(request: EvaluateRequest, tracking_uri: str | None = None) -> Evaluation:
    """Measure, keep the scores in ``<workspace>/evaluations``, and log a run's to its MLflow run.

    Raises:
        RequestError: anything in the request that is wrong; see the parts.
        WorkbenchError: an image or a score that is not finite: nothing is kept then.
    """
    check_names(request.metrics)
    refuse_foreign_ranks()
    rows, run = launch(_on_ranks, request.nproc, request, name=request.source.reference)
    files = tuple(_keep(request.workspace, row) for row in rows)
    evaluation = Evaluation(tuple(rows), files)
    if run is None:
        return evaluation
    folder, nimg = run
    left = 0
    for row, file in zip(rows, files, strict=True):
        values = {tracked_name(row, score): score.value for score in row.scores}
        # Measured again, the same score may differ in its last bits: the first one stays.
        there = {p.key for p in read_points(folder.path, set(values)) if p.step == nimg}
        values = {name: value for name, value in values.items() if name not in there}
        left = add_later(folder.path, values, nimg, {_ARTIFACTS: file}, tracking_uri)
    return replace(evaluation, run=folder.name, undelivered=left)


def tracked_name(row: ScoredRow, score: Score) -> str:
    """The score's name in MLflow; it ends in the protocol's id: one name, one way of measuring."""
    protocol = score.fingerprint["protocol"][:8]
    return f"evaluation/{row.reference}/{score.name}_{row.steps}steps_{protocol}"


def _on_ranks(request: EvaluateRequest) -> Any:
    with joined_ranks() as ranks:
        source = open_source(request.workspace, request.source, ranks.device)
        reference = open_reference(request.workspace, request.reference)
        prompts = _prompts(request, source, reference)
        weights = WeightFiles(request.workspace.root / "weights", request.weights)
        observers = Observers(request.workspace.cache, weights, ranks.device)
        # Rank 0 first: it trains the classifier, downloads and pins for all.
        metrics = make_metrics(request.metrics, reference, observers) if ranks.is_main else ()
        ranks.any(False)
        metrics = metrics or make_metrics(request.metrics, reference, observers)
        evaluator = Evaluator(metrics, prompts, request.source.seed, request.batch_size)
        _check_certainty(request, evaluator)
        rows = [
            _row(request, source, evaluator, steps, ranks)
            for steps in _step_counts(request, source)
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
        raise RequestError("--extrapolate is of Frechet distances: ask for fid among --metrics.")


def _step_counts(request: EvaluateRequest, source: Source) -> Sequence[int]:
    if source.default_steps is None:
        if request.steps is not None:
            raise RequestError(f"{source.name} is a folder of images: drop --steps.")
        return (1,)
    return request.steps or source.default_steps


def _prompts(request: EvaluateRequest, source: Source, reference: Reference) -> tuple[str, ...]:
    """One for each sample; empty for images of which no metric needs any."""
    count = source.count()
    given = _given_prompts(request.prompts)
    if count is not None:
        return _prompts_of_images(request, count, given)
    if given is None:
        samples = request.samples or reference.caption_count or DEFAULT_SAMPLES
        return reference.prompts(samples, request.source.seed)
    samples = request.samples or len(given)
    if samples > len(given):
        raise RequestError(
            f"{request.prompts} holds {len(given)} prompts, fewer than {samples} samples."
        )
    return given[:samples]


def _prompts_of_images(
    request: EvaluateRequest, count: int, given: tuple[str, ...] | None
) -> tuple[str, ...]:
    samples = request.samples or count
    if samples > count:
        raise RequestError(f"{request.source.reference} has {count} images, not {samples}.")
    if given is not None and len(given) != count:
        raise RequestError(
            f"{request.prompts} holds {len(given)} prompts for {count} images: a folder of images "
            "needs one prompt for each, in sorted order."
        )
    needing = [name for name in request.metrics if name in NEED_PROMPTS]
    if given is None and needing:
        raise RequestError(
            f"{needing[0]} judges images by their prompts: name them with --prompts FILE, one for "
            "each image in sorted order."
        )
    return given[:samples] if given is not None else ("",) * samples


def _given_prompts(file: Path | None) -> tuple[str, ...] | None:
    return None if file is None else read_prompts(PromptsConfig(source=str(file))).prompts


def _row(
    request: EvaluateRequest, source: Source, evaluator: Evaluator, steps: int, ranks: Ranks
) -> ScoredRow:
    identity = source.identity(steps)
    sampler = source.sampler(steps, evaluator.prompts)
    cache: FeatureCache | None = FeatureCache(request.workspace.cache / "features", identity)
    if request.keep_images is not None:  # every image is wanted, not only its rows
        sampler, cache = _keeping(sampler, request.keep_images / f"{steps}-steps"), None
    peers = Peers(ranks.rank, ranks.world, ranks.gather)
    what = f"{source.name}, {steps} steps" if source.default_steps else source.name
    with request.bar(what) as show:
        viewed = evaluator.viewing(cache, show).view(sampler, peers)
    values = evaluator.scores(viewed.observations, peers)
    scores: tuple[Score, ...] = ()
    if ranks.is_main:
        scores = tuple(
            _score(request, evaluator, metric, values[metric.name], identity, viewed.observations)
            for metric in evaluator.metrics
        )
    return ScoredRow(
        model=source.name,
        kind=source.kind(),
        reference=request.reference,
        samples=evaluator.samples,
        steps=steps if source.default_steps else None,
        nfe=sampler.nfe,
        ms_per_image=viewed.ms_per_image,
        scores=scores,
        fingerprint=evaluator.fingerprint(steps),
    )


def _score(
    request: EvaluateRequest,
    evaluator: Evaluator,
    metric: Metric,
    value: float,
    identity: Mapping[str, object],
    observations: Observations,
) -> Score:
    fingerprint = evaluator.fingerprint_of(metric, identity)
    seed = int(fingerprint["id"], 16)
    rows = observations.rows(observer_key(metric.observer), evaluator.samples)
    score = Score(metric.name, value, metric.lower_is_better, fingerprint)
    if request.bootstrap:
        score = replace(score, interval=interval(metric, rows, value, request.bootstrap, seed))
    if isinstance(metric, FrechetMetric):
        score = replace(score, bias=frechet_bias(metric, rows, value, seed))
        if request.extrapolate:
            limit = extrapolate(metric, rows, max(request.bootstrap, 200), seed)
            score = replace(score, extrapolated=limit)
    return score


def _keeping(sampler: Sampler, folder: Path) -> Sampler:
    """The sampler, writing every image that it draws."""

    def draw(prompts: list[str], start: int, count: int) -> Tensor:
        images = sampler.draw(prompts, start, count)
        folder.mkdir(parents=True, exist_ok=True)
        for number, (image, prompt) in enumerate(zip(images.cpu(), prompts, strict=True)):
            WRITERS["png"](image, {"prompt": prompt}, folder / f"{start + number:06d}.png")
        return images

    return replace(sampler, draw=draw)


def _keep(workspace: Workspace, row: ScoredRow) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", row.model)
    steps = f"{row.steps}steps-" if row.steps is not None else ""
    ids = short_hash([score.fingerprint["id"] for score in row.scores])
    file = workspace.root / "evaluations" / name / f"{row.reference}-{steps}{ids}.json"
    write_json(file, row.as_dict())
    return file
