"""Images that prompts ask for: the embedded digits as the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.evaluation import digits_evaluator
from workbench.evaluation.references import DIGITS
from workbench.runs.figures import draw_curve
from workbench.runs.folder import RunFolder
from workbench.runs.measure import SampledModel
from workbench.runs.pairs import EncodedPairs, encode_pairs
from workbench.runs.text import TextJob, cut_warning, load_with_encodings
from workbench.teachers import PipelineTeacher
from workbench.teachers.digits import load_digits_images, one_prompt_per_digit
from workbench.teachers.pair_sources import read_pairs
from workbench.teachers.text_store import TextStore
from workbench.tracking import InputData
from workbench.training.config import RunConfig


class ImageWorld:
    """A pipeline's images, scored against the real digits."""

    reference = DIGITS

    def __init__(
        self, config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob
    ) -> None:
        settings = config.evaluation
        self.evaluator = digits_evaluator(job.workspace.cache, settings.samples, settings.seed)
        self.shown: Sequence[str] = one_prompt_per_digit()
        self._config, self._job = config, job
        self._listing = read_pairs(config.data) if config.data else None
        of_pairs = self._listing.prompts if self._listing else ()
        everything = [*prompts, *self.evaluator.prompts, *self.shown, *of_pairs]
        self.teacher: PipelineTeacher
        self.encoded: TextStore
        self.teacher, self.encoded = load_with_encodings(config, folder, everything, job)

    def pairs(self) -> EncodedPairs | None:
        """The pairs of ``data.source``, encoded; every rank calls this."""
        if self._listing is None or self._config.data is None:
            return None
        source = self._config.data.source
        return encode_pairs(source, self._listing, self.teacher, self.encoded, self._job)

    def text_warning(self, prompts: Sequence[str]) -> str | None:
        """Prompts that the encoder cuts."""
        return cut_warning(prompts, self.encoded.view(prompts))

    def input_data(self) -> InputData:
        """The real digits."""
        images, _ = load_digits_images()
        return InputData.of_images("digits", images.numpy(), "sklearn.datasets", "evaluation")

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
        """FID against kimg with the teacher's levels."""
        return draw_curve(folder.path, table, folder.figures)

    def keep(self, rows: Mapping[str, Tensor], target: Path) -> list[Path]:
        """Nothing: the drawn grid shows all of them."""
        return []
