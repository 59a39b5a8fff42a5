"""What an evaluation compares with, by which metrics, and for which prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.data.bundled import BUNDLED
from workbench.data.prompts import PromptsConfig, PromptSet, read_prompts
from workbench.errors import RequestError
from workbench.evaluation import FeatureExtractors, Metric, Reference, make_metrics, open_reference
from workbench.evaluation.catalog import PROMPT_METRICS
from workbench.evaluation.setup import needed_weights
from workbench.metrics import metric_info
from workbench.scoring.sources import Source
from workbench.training.evaluation_config import EvaluationConfig

if TYPE_CHECKING:
    from workbench.scoring.evaluate import EvaluateRequest

LOG = logging.getLogger(__name__)

NO_REFERENCE = "none"
"""What stands for a reference in names of scores that need none."""

_SAMPLES = 2000  # where a reference has prompts for any number


@dataclass(frozen=True)
class Protocol:
    """How samples are scored.

    Attributes:
        metrics: names.
        asked: whether a person named the metrics: those that cannot be computed are then refused,
            else left out and told.
        prompts: one for each sample; empty ones for images of which no metric needs any.
        weights: files of networks by name.
    """

    metrics: tuple[str, ...]
    asked: bool
    reference: Reference | None
    prompts: tuple[str, ...]
    weights: Mapping[str, Path]

    @property
    def reference_name(self) -> str:
        return self.reference.name if self.reference is not None else NO_REFERENCE

    def make_metrics(self, extractors: FeatureExtractors) -> tuple[Metric, ...]:
        """The metrics, without those that cannot judge by these prompts unless asked for.

        Raises:
            RequestError: as :func:`workbench.evaluation.make_metrics`.
        """
        made = make_metrics(self.metrics, self.reference, extractors)
        if self.asked:
            return made
        kept = []
        for metric in made:
            try:
                metric.extractor.check_prompts(self.prompts)
            except RequestError as error:
                LOG.warning("%s is left out: %s", metric.name, error)
            else:
                kept.append(metric)
        return tuple(kept)


def choose_protocol(request: EvaluateRequest, source: Source) -> Protocol:
    """What was asked for, and else what the source's own settings say.

    Raises:
        RequestError: nobody says what to compare with, an unknown reference, fewer prompts or
            images than samples, or not one prompt for each image.
    """
    own = source.settings
    name = request.reference or (own.reference if own else None)
    same = own is not None and name == own.reference
    if own is not None and own.metrics and not same and not request.metrics:
        LOG.warning(
            "Against %s, not %s: the run's or recipe's own metrics, prompts and samples do not "
            "count; --metric, --prompts and --samples name them.",
            name,
            own.reference,
        )
    reference = open_reference(request.workspace, name) if name is not None else None
    metrics = tuple(request.metrics or (own.metrics if own and same else ()) or _usual(reference))
    comparing = [each for each in metrics if metric_info(each).needs_reference]
    if not metrics or (comparing and reference is None):
        raise RequestError(
            f"Nothing says what {source.name} is to be compared with: name --reference "
            f"({', '.join(BUNDLED)}, or one of `workbench references list`), or --metric that "
            "need none, such as clip, with --prompts FILE."
        )
    prompts = _choose_prompts(request, source, reference, own if same else None, metrics)
    needed = needed_weights(metrics, reference)  # of the run's files those that serve here
    kept = {n: Path(p) for n, p in (own.weights if own else {}).items() if n in needed}
    weights = {**kept, **request.weights}
    return Protocol(metrics, request.metrics is not None, reference, prompts, weights)


def _usual(reference: Reference | None) -> tuple[str, ...]:
    """What is measured where nobody says."""
    if reference is None:
        return ()
    by_prompts = PROMPT_METRICS.get(reference.network)
    return ("fid",) if by_prompts is None else ("fid", by_prompts)


def _choose_prompts(
    request: EvaluateRequest,
    source: Source,
    reference: Reference | None,
    own: EvaluationConfig | None,
    metrics: Sequence[str],
) -> tuple[str, ...]:
    count = source.count()
    given = _given(request.prompts)
    if given is None and own is not None and own.prompts is not None:
        given = read_prompts(own.prompts)
    if count is not None:
        return _of_images(request, count, given, metrics)
    if given is None:
        if reference is None:
            raise RequestError(
                f"{', '.join(metrics)} need prompts to draw samples for: name --prompts FILE, or a "
                "--reference that has captions."
            )
        usual = own.samples if own is not None else reference.caption_count or _SAMPLES
        return reference.prompts(request.samples or usual)
    samples = request.samples or (own.samples if own is not None else len(given))
    if samples > len(given):
        raise RequestError(
            f"{given.source} holds {len(given)} prompts, fewer than {samples} samples."
        )
    return given.prompts[:samples]


def _of_images(
    request: EvaluateRequest, count: int, given: PromptSet | None, metrics: Sequence[str]
) -> tuple[str, ...]:
    samples = request.samples or count
    if samples > count:
        raise RequestError(f"{request.source.reference} has {count} images, not {samples}.")
    # An empty prompt is dropped in reading: those behind it would move to other images.
    if given is not None and (given.dropped or len(given) != count):
        empty = f" and {given.dropped} empty ones" if given.dropped else ""
        raise RequestError(
            f"{request.prompts} holds {len(given)} prompts{empty} for {count} images: a folder of "
            "images needs one prompt for each, in sorted order."
        )
    needing = [name for name in metrics if metric_info(name).needs_prompts]
    if given is None and needing and request.metrics is not None:
        raise RequestError(
            f"{needing[0]} judges images by their prompts: name them with --prompts FILE, one for "
            "each image in sorted order."
        )
    return given.prompts[:samples] if given is not None else ("",) * samples


def _given(file: Path | None) -> PromptSet | None:
    return None if file is None else read_prompts(PromptsConfig(source=str(file)))
