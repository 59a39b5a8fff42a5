"""Points whose true distribution is known: samples of a mixture of Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.bundled import NUMBER_WORDS
from workbench.data.pairs import PairsConfig
from workbench.errors import RequestError
from workbench.evaluation.prompts import prompt_mix
from workbench.evaluation.truth import floor, truth, truth_evaluator
from workbench.flow.noise import NoiseSource
from workbench.methods import DrawNoise, Pairs
from workbench.students.measure import SampledModel
from workbench.students.text import TextJob
from workbench.teachers.analytic import MixtureTeacher, check_no_call, load_mixture, mode_labels
from workbench.teachers.base import Conditioning
from workbench.teachers.mixture import LOG_SHARES
from workbench.tracking import InputData, Tracker
from workbench.training.config import RunConfig
from workbench.training.run_folder import RunFolder

SAMPLES_FILE = "samples.npz"
"""Samples of a run's teacher and student, (N, D) by caption, beside the figures."""
SHOWN = (0, -1)
"""Coordinates of pictures: the first and the last."""
TRUTH = "truth"
_PAIRS = 50_000
_PIXELS = 128
_MARGIN = 5.0  # of a picture around the modes, in their std


class DirectEncodings:
    """Prompts of an analytic teacher, encoded where they are asked for: it costs nothing."""

    def __init__(self, teacher: MixtureTeacher) -> None:
        self._teacher = teacher

    def rows(self, prompts: Sequence[str]) -> Conditioning | None:
        return self._teacher.encode(prompts)

    def view(self, prompts: Sequence[str]) -> Conditioning | None:
        return self._teacher.encode(prompts)

    def uncond(self) -> Conditioning | None:
        return self._teacher.uncond()


class TruthPairs:
    """Samples of an analytic teacher's mixture as data, with their modes as prompts."""

    def __init__(self, teacher: MixtureTeacher, count: int) -> None:
        self._teacher, self._count = teacher, count
        mixture, noise = teacher.mixture, NoiseSource(teacher.recipe.seed)
        self._labels = mixture.labels(noise.uniform("pairs/mode", 0, count))
        normal = noise.normal("pairs/inside", 0, count, teacher.latent_shape)
        self._points = mixture.at(self._labels, normal)

    def __len__(self) -> int:
        return self._count

    def select(self, index: Tensor, /) -> Pairs:
        """Rows by an int64 index (any order, repeats allowed)."""
        cond = self._teacher.asking(self._labels[index])
        return Pairs(self._points[index], cond)

    @property
    def fingerprint(self) -> str:
        """The mixture and the number of samples decide all."""
        return f"{TRUTH}-{self._count}"

    def as_dict(self) -> Mapping[str, object]:
        return {"source": TRUTH, "count": self._count, "fingerprint": self.fingerprint}

    def report(self, tracker: Tracker, warn: Callable[[str], None]) -> None:
        """Tell the tracker which samples go into the run."""
        columns = {"point": f"float32{list(self._points.shape[1:])}"}
        tracker.log_inputs(InputData("pairs", self.fingerprint, self._count, columns, TRUTH))


class MixtureTask:
    """Points of an analytic teacher, scored against samples of the truth."""

    reference: str | None = TRUTH
    patch: int | None = None

    def __init__(
        self, config: RunConfig, folder: Path, prompts: Sequence[str], job: TextJob
    ) -> None:
        check_no_call(config.teacher, config.teacher_call)
        self.config = config
        self.teacher = load_mixture(config.teacher, folder, job.ranks.device)
        self.recipe, self.encoded = self.teacher.recipe, DirectEncodings(self.teacher)
        self.encoded.rows(prompts)  # each must name a mode
        if not self.recipe.prompted and config.prompts.source is not None:
            raise RequestError(
                f"The teacher {config.teacher} has no prompts; leave prompts.source out."
            )
        if not self.recipe.prompted and config.evaluation.cfg_scale != 1.0:
            raise RequestError(
                f"The teacher {config.teacher} has no prompts to be guided by: "
                "evaluation.cfg_scale must stay 1."
            )
        self.mixture, settings = self.recipe.mixture, config.drawn_evaluation
        self._check_settings()
        self.shown: Sequence[str] = self._scored(settings.samples)
        label = mode_labels if self.recipe.prompted else None
        first = settings.primary_metric
        names = sorted(settings.metrics, key=lambda name: name != first)
        self.evaluator = truth_evaluator(self.mixture, self.shown, names, label)

    def _check_settings(self) -> None:
        """Points have a truth, which judges them, and no look, no network of features, no file.

        Raises:
            RequestError: another reference, or a setting that would do nothing here.
        """
        settings = self.config.evaluation
        if settings.reference not in (None, TRUTH):
            raise RequestError(
                f"The teacher {self.config.teacher} draws points: evaluation.reference must be "
                f"{TRUTH}, not {settings.reference}."
            )
        unused = ("prompts", "shown", "weights", "stock_steps", "stock_guidance")
        given = [name for name in unused if getattr(settings, name) not in (None, (), {})]
        if given:
            raise RequestError(
                f"The teacher {self.config.teacher} draws points: evaluation.{given[0]} has no "
                "meaning for it; leave it out."
            )

    def _scored(self, samples: int) -> tuple[str, ...]:
        """Every mode equally often, as the mixture has them; empty for a teacher without."""
        if not self.recipe.prompted:
            return ("",) * samples
        wordings = {mode: [f"number {NUMBER_WORDS[mode]}"] for mode in range(self.mixture.modes)}
        return prompt_mix(wordings, dict.fromkeys(wordings, 1), samples)

    def pairs(self) -> TruthPairs | None:
        """Samples of the truth, with the prompts that ask for their modes.

        Raises:
            RequestError: another source, which holds images.
        """
        data = self.config.data
        if data is None:
            return None
        if data != PairsConfig(source=TRUTH, limit=data.limit):
            raise RequestError(
                f"The teacher {self.config.teacher} draws points, and data.source={data.source!r} "
                f"holds images: expected data.source={TRUTH}, which are samples of the mixture "
                f"({_PAIRS} unless data.limit says otherwise), and nothing else in data."
            )
        return TruthPairs(self.teacher, data.limit or _PAIRS)

    def text_warning(self, prompts: Sequence[str]) -> str | None:
        """A prompt is read whole."""
        return None

    def input_data(self) -> InputData | None:
        """The truth's samples."""
        rows = truth(self.mixture, len(self.shown))
        return InputData.of_images(TRUTH, rows, self.config.teacher, "evaluation")

    def facts(self) -> Mapping[str, Any]:
        """The mixture, and what samples of the truth itself score."""
        return {"mixture": self.recipe.truth, "floor": floor(self.mixture, len(self.shown))}

    def further_models(self) -> Iterator[SampledModel]:
        """The truth: fresh samples of the mixture."""

        def sample(cond: Conditioning | None, draw: DrawNoise) -> Tensor:
            if cond is not None:
                labels = cond[LOG_SHARES].argmax(dim=1)
            else:
                labels = self.mixture.labels(torch.special.ndtr(draw(1)[:, 0].double()))
            return self.mixture.at(labels.cpu(), draw(0).cpu()).to(draw(0).device)

        yield SampledModel(TRUTH, 0, 0, sample)

    def pictures(self, samples: Tensor) -> Tensor:
        """How densely the first and last coordinates are populated (1, 3, H, W): black is dense.

        Each coordinate fills the picture as the truth needs it.
        """
        seen = self.mixture.marginal(SHOWN)
        reach = (seen.means.abs() + _MARGIN * seen.stds).amax(0).numpy()
        points = samples[:, SHOWN].cpu().double().numpy()
        bounds = [[-far, far] for far in reach[::-1]]
        counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], _PIXELS, bounds)
        pixel = np.prod(2 * reach / _PIXELS)
        peak = float((seen.shares / seen.stds.prod(1)).max()) / (2 * np.pi)
        shade = 1 - np.clip(counts / (len(points) * pixel * peak), 0, 1) ** 0.5
        picture = torch.from_numpy(shade[::-1].copy()).float()
        return picture.expand(1, 3, -1, -1)

    def captions(self) -> list[str]:
        return []

    def draw_curve(self, folder: RunFolder, table: Sequence[Mapping[str, Any]]) -> list[Path]:
        """None: the curve of a run is one of FID."""
        return []

    def keep(self, rows: Mapping[str, Tensor], target: Path) -> list[Path]:
        """All samples, by caption."""
        file = target / SAMPLES_FILE
        target.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {name: points.numpy() for name, points in rows.items()}
        np.savez_compressed(file, **arrays)
        return [file]
