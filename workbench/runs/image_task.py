"""Images that prompts ask for, scored as the run's settings say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.data.pairs import read_pairs
from workbench.evaluation import build_evaluator
from workbench.evaluation.references import BuiltReference, BundledReference, Reference
from workbench.evaluation.setup import evaluation_prompts, find_reference
from workbench.runs.figures import draw_curve
from workbench.runs.pairs import EncodedPairs, encode_pairs
from workbench.students.measure import SampledModel
from workbench.students.text import TextJob, cut_warning, load_with_encodings
from workbench.teachers import PipelineTeacher
from workbench.teachers.text_store import TextStore
from workbench.tracking import InputData
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder

_SHOWN = 10


class ImageTask:
    """A pipeline's images against the reference of the run's settings."""

    def __init__(
        self, config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob
    ) -> None:
        settings, place = config.evaluation, job.workspace
        self._config, self._job = config, job
        self._reference = find_reference(place, settings)
        self.reference = settings.reference
        scored = evaluation_prompts(settings, self._reference) if settings.metrics else ()
        known = dict.fromkeys([*scored, *prompts])
        self.shown: Sequence[str] = settings.shown or tuple(known)[:_SHOWN]
        self._listing = read_pairs(config.data) if config.data else None
        of_pairs = self._listing.prompts if self._listing else ()
        everything = [*prompts, *scored, *self.shown, *of_pairs]
        self.teacher: PipelineTeacher
        self.encoded: TextStore
        self.teacher, self.encoded = load_with_encodings(config, folder, everything, job)
        self.patch: int | None = self.teacher.pixels_per_patch
        device = job.ranks.device
        # Rank 0 first: it trains a bundled classifier and pins weights for all.
        first = build_evaluator(place, settings, device) if job.ranks.is_main else None
        job.ranks.any(False)
        self.evaluator = first or build_evaluator(place, settings, device)

    def pairs(self) -> EncodedPairs | None:
        """The pairs of ``data.source``, encoded; every rank calls this."""
        if self._listing is None or self._config.data is None:
            return None
        source = self._config.data.source
        return encode_pairs(source, self._listing, self.teacher, self.encoded, self._job)

    def text_warning(self, prompts: Sequence[str]) -> str | None:
        """Prompts that the encoder cuts."""
        return cut_warning(prompts, self.encoded.view(prompts))

    def input_data(self) -> InputData | None:
        """The real images."""
        return None if self._reference is None else input_of(self._reference)

    def facts(self) -> Mapping[str, Any]:
        """Nothing more."""
        return {}

    def further_models(self) -> Iterator[SampledModel]:
        """None: real images are no samples of prompts and noise."""
        yield from ()

    def pictures(self, samples: Tensor) -> Tensor:
        """The images themselves."""
        return samples

    def captions(self) -> list[str]:
        return list(self.shown)

    def draw_curve(self, folder: RunFolder, table: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Scores against kimg with the teacher's levels; nothing where none was measured."""
        if self.evaluator is None:
            return []
        return draw_curve(folder.path, table, folder.figures)

    def keep(self, rows: Mapping[str, Tensor], target: Path) -> list[Path]:
        """Nothing: the drawn grid shows all of them."""
        return []


def input_of(reference: Reference) -> InputData:
    """Real images as the tracker describes them."""
    if isinstance(reference, BundledReference):
        data, images = reference.data, reference.images().numpy()
        return InputData.of_images(data.name, images, data.origin, "evaluation")
    assert isinstance(reference, BuiltReference)
    record = reference.record
    columns = {"image": f"{record.size} x {record.size} pixels"}
    source = str(reference.folder)
    return InputData(
        record.name, record.identity, record.images, columns, source, context="evaluation"
    )
