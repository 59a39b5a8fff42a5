"""Scoring samplers of one teacher: the student during a run, teacher and student at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.errors import InterruptedRunError, RequestError
from workbench.evaluation import Evaluator, Sampler
from workbench.flow import NoiseSource
from workbench.methods import DrawNoise, FewStepSampler, GeneratorConfig
from workbench.samplers import STOCK, STUDENT, TEACHER
from workbench.students.cost import evaluations_a_step
from workbench.teachers import PipelineTeacher, sample_teacher
from workbench.teachers.base import Conditioning, Distillable, VelocityNetwork
from workbench.teachers.chunks import auto_batch_size, chunk_memory
from workbench.teachers.guidance import describe_euler
from workbench.teachers.stock import stock_call
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.parallel import Ranks

SampleLatents = Callable[[Conditioning | None, DrawNoise], Tensor]
"""(B conditioning rows or None without prompts, step index -> noise (B, *latent_shape)) -> latents
of that shape."""

Told = Callable[[str, int, int], None]
"""(what is evaluated, samples that are done, all samples); called on rank 0 alone."""

_NOISE = "evaluation"


def _nobody(what: str, done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class SampledModel:
    """A way to make samples: who, with how many steps, at what cost per sample.

    Attributes:
        how: the sampler in words: scheduler, shift, guidance or noise.
        identity: what of it, besides weights and steps, decides a sample.
    """

    name: str
    steps: int
    nfe: int
    sample: SampleLatents
    how: str = ""
    identity: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of the results table; seconds are of sampling and decoding alone."""

    model: str
    steps: int
    nfe: int
    ms_per_image: float
    scores: Mapping[str, float]
    fingerprint: Mapping[str, object]
    how: str = ""

    def as_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "steps": self.steps,
            "nfe": self.nfe,
            **self.scores,
            "ms_per_image": self.ms_per_image,
            "fingerprint": dict(self.fingerprint),
            "how": self.how,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row that :meth:`as_dict` wrote.

        Raises:
            KeyError: a column is missing.
        """
        scores = dict(values)
        own = {name: scores.pop(name) for name in ("model", "steps", "nfe", "ms_per_image")}
        own["how"] = scores.pop("how", "")  # rows of before did not say
        return cls(**own, fingerprint=scores.pop("fingerprint"), scores=scores)


class Encodings(Protocol):
    """Prompts that were encoded before: on disk (``TextStore``) or here (``EncodedPrompts``)."""

    def rows(self, prompts: Sequence[str]) -> Conditioning | None:
        """Encodings of these prompts, in order; None where the teacher has no prompts."""
        ...


class Samplers:
    """Teacher and student samplers that share their first noise, sample by sample.

    The noise is that of ``settings.seed`` (0 without one; a run's own is in
    :attr:`~workbench.training.config.RunConfig.drawn_evaluation`). Networks draw as they are: their
    owner has them in ``settings.precision``.

    ``uncond`` is the encoded empty prompt, for a teacher whose text encoders are gone.
    """

    def __init__(
        self,
        teacher: Distillable,
        settings: EvaluationConfig,
        device: torch.device,
        uncond: Conditioning | None = None,
    ) -> None:
        self.teacher, self.settings, self.device = teacher, settings, device
        self.seed = settings.seed or 0
        self.noise = NoiseSource(self.seed)
        row = uncond if uncond is not None else teacher.uncond()
        self.uncond = row.to(device) if row is not None else None

    def at_seed(self, seed: int) -> Samplers:
        """The same on another noise."""
        return Samplers(self.teacher, self.settings.at_seed(seed), self.device, self.uncond)

    @property
    def batch_size(self) -> int:
        """Samples to draw at once: as set, else as many as the device has room for now."""
        if self.settings.batch_size != "auto":
            return self.settings.batch_size
        teacher = self.teacher
        parameters = sum(parameter.numel() for parameter in teacher.network.parameters())
        memory = chunk_memory(self.device)
        return auto_batch_size(memory, teacher.latent_shape, parameters, teacher.resolution)

    def of_teacher(self, network: VelocityNetwork, steps: int) -> SampledModel:
        """Euler from pure noise."""
        scale, shift = self.settings.cfg_scale, self.settings.teacher_flow_shift

        def sample(cond: Conditioning | None, draw: DrawNoise) -> Tensor:
            return sample_teacher(network, cond, self.uncond, draw(0), steps, scale, shift)

        return SampledModel(
            TEACHER,
            steps,
            steps * evaluations_a_step(scale),
            sample,
            describe_euler(scale, shift),
            {"sampler": "euler", "cfg_scale": scale, "flow_shift": shift},
        )

    def of_stock(self, network: VelocityNetwork, steps: int) -> SampledModel:
        """The teacher as its users run it: its pipeline's own call, scheduler and guidance.

        Raises:
            RequestError: the teacher is no pipeline.
        """
        teacher, guidance = self.teacher, self.settings.stock_guidance
        if not isinstance(teacher, PipelineTeacher):
            raise RequestError(f"{teacher.name} is no pipeline: it has no call of its own.")

        call = stock_call(teacher, steps, guidance)

        @torch.no_grad()
        def sample(cond: Conditioning | None, draw: DrawNoise) -> Tensor:
            assert cond is not None
            noise = draw(0)
            generators = [_generator(each) for each in noise]
            return call.latents(network, cond, self.uncond, noise, generators)

        identity = {"sampler": "stock", **call.identity}
        return SampledModel(STOCK, steps, call.nfe, sample, call.description, identity)

    def of_student(
        self, network: VelocityNetwork, generator: GeneratorConfig, steps: int
    ) -> SampledModel:
        """The first ``steps`` of the generator's own K."""
        sampler = FewStepSampler(generator)

        @torch.no_grad()
        def sample(cond: Conditioning | None, draw: DrawNoise) -> Tensor:
            return sampler.sample(network, cond, draw, steps)

        how = f"{generator.noise} noise, shift {generator.flow_shift:g}"
        return SampledModel(STUDENT, steps, steps, sample, how, {"sampler": generator.noise})

    def images(
        self,
        model: SampledModel,
        encoded: Conditioning | None,
        start: int,
        count: int,
        every: int = 1,
    ) -> Tensor:
        """``count`` samples from the one numbered ``start`` on, as the teacher decodes them.

        Images (count, 3, H, W) in [0, 1] of a pipeline, points (count, D) of an analytic teacher.

        Args:
            every: 2 takes every other sample's noise, and so on.
        """
        latents = self.latents(model, encoded, start, count, every)
        return self.teacher.decode(latents)

    def latents(
        self,
        model: SampledModel,
        encoded: Conditioning | None,
        start: int,
        count: int,
        every: int = 1,
    ) -> Tensor:
        """The same before decoding, (count, *latent_shape)."""

        def draw(step: int) -> Tensor:
            shape = self.teacher.latent_shape
            noise = self.noise.normal(f"{_NOISE}/step{step}", start, count * every, shape)
            return noise[::every].to(self.device)

        cond = encoded.to(self.device) if encoded is not None else None
        return model.sample(cond, draw)

    def images_from(
        self, model: SampledModel, encoded: Conditioning | None, draw: DrawNoise
    ) -> Tensor:
        """The same from given noise on any device."""
        cond = encoded.to(self.device) if encoded is not None else None
        return self.teacher.decode(model.sample(cond, lambda step: draw(step).to(self.device)))


def _generator(noise: Tensor) -> torch.Generator:
    """Of one sample's further noise: seeded by its first, so that it depends on nothing else."""
    seed = int.from_bytes(noise.detach().cpu().numpy().tobytes()[:8], "little")
    return torch.Generator().manual_seed(seed % 2**63)


class Measurement:
    """An evaluator bound to a teacher: samples in, table rows out, sharded over ranks.

    Args:
        evaluator: what is measured; how samples are drawn, their seed, precision and batch size,
            are the samplers' settings.
        scratch: a folder that all ranks share and no other evaluation uses, for features.
        tell: hears on rank 0 how far an evaluation is.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        samplers: Samplers,
        encoded: Encodings,
        ranks: Ranks,
        scratch: Path | None = None,
        tell: Told = _nobody,
    ) -> None:
        drawn = samplers.settings.precision
        self.evaluator = replace(evaluator, seed=samplers.seed, precision=drawn)
        self.samplers, self.encoded, self.ranks = samplers, encoded, ranks
        self.scratch, self.tell = scratch, tell

    @cached_property
    def _sized(self) -> Evaluator:
        """With a batch size that every rank has room for, the same from the first row on."""
        return replace(self.evaluator, batch_size=min(self.ranks.gather(self.samplers.batch_size)))

    def at_seed(self, seed: int) -> Measurement:
        """The same on another noise."""
        samplers = self.samplers.at_seed(seed)
        return Measurement(
            self.evaluator, samplers, self.encoded, self.ranks, self.scratch, self.tell
        )

    def row(self, model: SampledModel) -> Row:
        """The model's samples, scored; every rank calls this and gets the same row."""

        def draw(prompts: Sequence[str], start: int, count: int) -> Tensor:
            return self.samplers.images(model, self.encoded.rows(prompts), start, count)

        scores = self._sized.evaluate(
            Sampler(draw, model.steps, model.nfe),
            self.ranks,
            show=partial(self.tell, f"{model.name}, {model.steps} steps"),
            scratch=self.scratch,
        )
        return Row(
            model.name,
            model.steps,
            model.nfe,
            scores.ms_per_image,
            scores.values,
            scores.fingerprint,
            model.how,
        )


class EncodedPrompts:
    """Each distinct prompt encoded once, in memory; a run keeps its own in a ``TextStore``."""

    def __init__(self, teacher: PipelineTeacher, prompts: Iterable[str]) -> None:
        distinct = list(dict.fromkeys(prompts))
        self.index = {prompt: row for row, prompt in enumerate(distinct)}
        self.table: Conditioning = teacher.encode(distinct)

    def rows(self, prompts: Sequence[str]) -> Conditioning:
        rows = torch.tensor([self.index[prompt] for prompt in prompts])
        return self.table.select(rows)


Measure = Callable[[SampledModel], Row]


def measure_all(
    models: Iterable[tuple[SampledModel, Measure]],
    ranks: Ranks,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """One row for each model, by its own way of measuring.

    Raises:
        InterruptedRunError: a stop was requested between two of them, on any rank.
    """
    rows = []
    for model, measure in models:
        if ranks.any(should_stop()):
            raise InterruptedRunError(
                "Stopped during the final evaluation; the same command measures again."
            )
        rows.append(measure(model))
    return rows
