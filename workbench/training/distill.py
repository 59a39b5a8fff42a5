"""Distilling a teacher of one's own from Python: no pipeline, no workspace, no tracker."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.methods import FewStepSampler, GeneratorConfig, method_type
from workbench.teachers.base import Conditioning, OwnVelocity, Teacher, VelocityNetwork
from workbench.training.config import RunConfig
from workbench.training.events import Listener
from workbench.training.networks import DistillationInputs, student_network
from workbench.training.overrides import with_overrides
from workbench.training.parallel import full_state_dict, init_distributed
from workbench.training.streams import PairDataset
from workbench.training.trainer import Evaluate, Trainer


@dataclass(frozen=True)
class Distilled:
    """A few-step generator: the averaged network and the sampler it was trained with."""

    network: VelocityNetwork
    generator: GeneratorConfig
    latent_shape: tuple[int, ...]
    partial_steps: bool = True
    """Whether it makes samples after fewer than its K steps too (:class:`Method`)."""

    @torch.no_grad()
    def sample(
        self, count: int, seed: int = 0, steps: int | None = None, cond: Conditioning | None = None
    ) -> Tensor:
        """``count`` samples (count, *latent_shape), one network evaluation a step.

        Sample i depends on the seed and i alone, whatever the count.

        Args:
            steps: the first so many of the generator's K; all by default.
            cond: one row a sample, for a prompted teacher.

        Raises:
            RequestError: fewer steps than K of a student that makes samples only after all.
        """
        if steps not in (None, self.generator.steps) and not self.partial_steps:
            raise RequestError(
                f"This student makes samples only after all its {self.generator.steps} steps."
            )
        device = next(self.network.parameters()).device
        noise = NoiseSource(seed)

        def draw(step: int) -> Tensor:
            return noise.normal(f"sample/step{step}", 0, count, self.latent_shape).to(device)

        sampler, cond = FewStepSampler(self.generator), cond.to(device) if cond else None
        return sampler.sample(self.network, cond, draw, steps)


def distill(
    teacher: Teacher,
    config: RunConfig | Sequence[str] = (),
    *,
    start: nn.Module | None = None,
    prompts: Conditioning | None = None,
    uncond: Conditioning | None = None,
    pairs: PairDataset | None = None,
    folder: Path | None = None,
    listener: Listener | None = None,
    evaluate: Evaluate | None = None,
) -> Distilled:
    """Distil anything that has ``velocity(x_t, t, cond)`` and ``latent_shape``.

    Args:
        teacher: an ``nn.Module`` is copied as it is; its own weights are not modified. A teacher
            without weights (a closed form, say) needs ``start``.
        config: the run, or overrides of the default one ("training.kimg=100", ...).
        start: a module with the same ``velocity``, where student and fake score start.
        prompts: encoded prompts, drawn in random order, for a prompted teacher.
        uncond: one row that encodes the empty prompt, needed for guidance other than 1.
        pairs: latents with their prompts, for a method that learns from data.
        folder: where checkpoints go; the same call resumes from them.

    Raises:
        RequestError: no velocity, no latent shape, nothing trainable to start from, or a wrong
            configuration.
    """
    if not callable(getattr(teacher, "velocity", None)) or not hasattr(teacher, "latent_shape"):
        raise RequestError(
            f"{type(teacher).__name__} is no teacher: it needs velocity(x_t, t, cond) and "
            "latent_shape."
        )
    source = start if start is not None else teacher
    if not isinstance(source, nn.Module) or next(source.parameters(), None) is None:
        raise RequestError(
            f"{type(source).__name__} has no weights to start a student from: pass start=MODULE, "
            "a torch module with the same velocity(x_t, t, cond)."
        )
    if not isinstance(config, RunConfig):
        config = with_overrides(RunConfig(), config)
    shape = tuple(teacher.latent_shape)
    own_start = OwnVelocity(start) if start is not None else None
    student = DistillationInputs(_own(teacher), shape, prompts, uncond, own_start, pairs=pairs)
    with init_distributed() as ranks:
        trainer = Trainer(config, student, ranks, folder, listener, evaluate)
        trainer.train()
        # A copy: what becomes of the teacher later must not change the student.
        network = student_network(copy.deepcopy(OwnVelocity(source)), config).to(ranks.device)
        network.load_state_dict(full_state_dict(trainer.average))
    return Distilled(network, config.generator, shape, method_type(config.method).partial_steps)


def _own(teacher: Teacher) -> OwnVelocity:
    return OwnVelocity(teacher if isinstance(teacher, nn.Module) else _ClosedForm(teacher))


class _ClosedForm(nn.Module):
    """A teacher without weights as a module."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        return self.teacher.velocity(x_t, t, cond)
