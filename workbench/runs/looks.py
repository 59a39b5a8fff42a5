"""How a run's samples look beside its teacher's: the shown prompts, several seeds each.

The first seed of each prompt is what grids show; all of them tell drift and diversity
(:mod:`workbench.evaluation.drift`), so that nothing is drawn for one of the two alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor

from workbench.errors import WorkbenchError
from workbench.evaluation.drift import Look, Ratio, drift_from, look_of
from workbench.hashing import fingerprint
from workbench.runs.baselines import BaselineCache
from workbench.runs.tasks import RunTask
from workbench.students.measure import Encodings, SampledModel, Samplers
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.parallel import Ranks


@dataclass(frozen=True)
class Looked:
    """A model's look, and its first image of each prompt (P, 3, H, W) on the CPU."""

    look: Look
    images: Tensor


class LookMeasurement:
    """Draws the shown prompts and measures their look, shared among the ranks.

    Args:
        task: its prompts, and its teacher's patch, whose grid is looked for.
    """

    def __init__(
        self,
        task: RunTask,
        samplers: Samplers,
        settings: EvaluationConfig,
        ranks: Ranks,
    ) -> None:
        assert task.patch is not None
        self.shown: Sequence[str] = task.shown
        self.encoded: Encodings = task.encoded
        self.patch, self.seeds = task.patch, settings.seeds_per_prompt
        self.samplers, self.ranks = samplers, ranks
        self.batch = max(1, min(ranks.gather(samplers.batch_size)))
        self.at_once = max(1, self.batch // self.seeds)
        self._teacher: Look | None = None

    def measure(self, model: SampledModel) -> Looked:
        """Every shown prompt with every seed; equal on all ranks, which all call this.

        A rank that has nothing left to draw draws the first prompt again: a sharded network needs
        every rank in every call.

        Raises:
            NotFiniteError: a sample is not finite; on every rank.
        """
        starts = range(0, len(self.shown), self.at_once)
        own: dict[int, tuple[Look, Tensor]] = {}
        problem: WorkbenchError | None = None
        for first in range(0, len(starts), self.ranks.world):
            place = first + self.ranks.rank
            start = starts[place] if place < len(starts) else 0
            count = min(self.at_once, len(self.shown) - start)
            try:
                drawn = self._draw(model, start, count if place < len(starts) else 1)
            except WorkbenchError as error:
                problem = problem or error
                continue
            if place < len(starts):
                own[start] = drawn
        found: dict[int, tuple[Look, Tensor]] = {}
        for part, wrong in self.ranks.gather((own, problem)):
            if wrong is not None:
                raise wrong
            found |= part
        parts = [found[start] for start in starts]
        looks, images = zip(*parts, strict=True)
        return Looked(Look.join(looks), torch.cat(images))

    def drift(
        self, student: Look, make_model: Callable[[], SampledModel], kept: BaselineCache
    ) -> dict[str, Ratio]:
        """The student's look over the teacher's, which that model draws once for all runs."""
        if self._teacher is None:
            model = make_model()
            settings = self.samplers.settings
            drawn = [list(self.shown), self.seeds, settings.seed, settings.precision]
            versions = [version(name) for name in ("torch", "diffusers")]
            what = fingerprint([*drawn, self.patch, *versions])
            self._teacher = kept.kept(
                model,
                {"look": what},
                Look.from_dict,
                lambda: self.measure(model).look,
                lambda look: dict(look.as_dict()),
            )
        return drift_from(student, self._teacher)

    def first_images(self, model: SampledModel) -> Tensor:
        """The first image of each prompt alone (P, 3, H, W), on the CPU; every rank draws all."""
        drawn = []
        for start in range(0, len(self.shown), self.at_once):
            prompts = list(self.shown[start : start + self.at_once])
            cond, count = self.encoded.rows(prompts), len(prompts)
            drawn.append(
                self.samplers.images(model, cond, start * self.seeds, count, self.seeds).cpu()
            )
        return torch.cat(drawn)

    def _draw(self, model: SampledModel, start: int, count: int) -> tuple[Look, Tensor]:
        prompts = [p for p in self.shown[start : start + count] for _ in range(self.seeds)]
        parts = []
        # As many calls for one prompt as for any: where a prompt takes several, it is alone.
        for place in range(0, len(prompts), self.batch):
            asked = prompts[place : place + self.batch]
            cond = self.encoded.rows(asked)
            first = start * self.seeds + place
            parts.append(self.samplers.latents(model, cond, first, len(asked)))
        latents = torch.cat(parts)
        images = self.samplers.teacher.decode(latents)
        look = look_of(images, latents, count, self.patch)
        return look, images[:: self.seeds].cpu()
