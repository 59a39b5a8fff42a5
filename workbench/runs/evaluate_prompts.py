"""Which prompts an evaluation draws for, or judges given images by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import RequestError
from workbench.evaluation import Reference
from workbench.metrics import metric_info
from workbench.runs.evaluate_sources import Source
from workbench.teachers.prompt_sources import PromptsConfig, PromptSet, read_prompts

if TYPE_CHECKING:
    from workbench.runs.evaluate import EvaluateRequest

DEFAULT_SAMPLES = 2000
"""Where the reference has prompts for any number."""


def choose_prompts(
    request: EvaluateRequest, source: Source, reference: Reference
) -> tuple[str, ...]:
    """One for each sample; empty for images of which no metric needs any.

    Raises:
        RequestError: fewer prompts or images than samples, or not one prompt for each image.
    """
    count = source.count()
    given = _given(request.prompts)
    if count is not None:
        return _of_images(request, count, given)
    if given is None:
        samples = request.samples or reference.caption_count or DEFAULT_SAMPLES
        return reference.prompts(samples, request.source.seed)
    samples = request.samples or len(given)
    if samples > len(given):
        raise RequestError(
            f"{request.prompts} holds {len(given)} prompts, fewer than {samples} samples."
        )
    return given.prompts[:samples]


def _of_images(request: EvaluateRequest, count: int, given: PromptSet | None) -> tuple[str, ...]:
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
    needing = [name for name in request.metrics or () if metric_info(name).needs_prompts]
    if given is None and needing:
        raise RequestError(
            f"{needing[0]} judges images by their prompts: name them with --prompts FILE, one for "
            "each image in sorted order."
        )
    return given.prompts[:samples] if given is not None else ("",) * samples


def _given(file: Path | None) -> PromptSet | None:
    return None if file is None else read_prompts(PromptsConfig(source=str(file)))
