"""One optimiser step of a phase: its batches, its gradient, and whether it is applied."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.flow.noise import NoiseSource
from workbench.methods import Batch, Networks, Phase, method_type
from workbench.training.config import AdamConfig, RunConfig, TrainingConfig
from workbench.training.parallel import Ranks, gradient_norm
from workbench.training.roles import Student
from workbench.training.streams import PairStream, PromptStream


class NonFiniteError(WorkbenchError):
    """Too many updates in a row were not finite."""


@dataclass(frozen=True)
class BatchSource:
    """This rank's part of any global batch; ``size`` is the part's, ``micro`` a forward pass's."""

    noise: NoiseSource
    latent_shape: tuple[int, ...]
    size: int
    micro: int
    ranks: Ranks
    prompts: PromptStream | None
    pairs: PairStream | None

    @classmethod
    def of(cls, student: Student, config: RunConfig, noise: NoiseSource, ranks: Ranks) -> Self:
        """A run's batches.

        Raises:
            RequestError: the batch is not divisible by the number of ranks.
        """
        size = ranks.share(config.training.batch_size)
        prompts = student.prompts if method_type(config.method).learns_from_prompts else None
        return cls(
            noise,
            student.latent_shape,
            size,
            config.training.micro_batch_size or size,
            ranks,
            PromptStream(prompts, noise) if prompts else None,
            PairStream(student.pairs, noise) if student.pairs else None,
        )

    def take(self, nimg: int, evaluations: int, draw: int) -> Iterator[Batch]:
        """Micro-batches of the batch that begins at ``nimg`` images, at k = ``evaluations``."""
        first, device = nimg + self.ranks.rank * self.size, self.ranks.device
        for start in range(first, first + self.size, self.micro):
            count = min(self.micro, first + self.size - start)
            yield Batch(
                start,
                count,
                self.prompts.take(start, count, draw).to(device) if self.prompts else None,
                evaluations,
                self.noise,
                self.latent_shape,
                device,
                self.pairs,
            )


@dataclass(frozen=True)
class Update:
    """What came of a step: its metrics, means over the batch, and whether it was applied."""

    metrics: Mapping[str, float]

    @property
    def finite(self) -> bool:
        return all(math.isfinite(value) for value in self.metrics.values())


class Updater:
    """Steps the optimisers of a method's phases, never by a gradient that is not finite."""

    def __init__(self, config: TrainingConfig, networks: Networks, batches: BatchSource) -> None:
        self.networks, self.batches = networks, batches
        self._settings = config.optimizers
        self.optimizers = {
            name: _adam(networks.module(name), config.optimizers[name])
            for name in (*networks.trained, *networks.heads)
        }

    def scale_rates(self, factor: float) -> None:
        """Every learning rate becomes ``factor`` times its configured one."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * self._settings[name].lr

    def step(self, phase: Phase, nimg: int, evaluations: int) -> Update:
        """Accumulate a phase's gradient and step its optimisers, unless it is not finite."""
        optimizers = [self.optimizers[role] for role in phase.roles]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        with self._training_only(phase.roles):
            for batch in self.batches.take(nimg, evaluations, phase.draw):
                loss = phase.loss(self.networks, batch)
                part = batch.count / self.batches.size
                torch.autograd.backward(loss.value * part)
                for name, value in loss.metrics.items():
                    metrics[name] = metrics.get(name, 0.0) + part * value
        for role in phase.roles:
            norm = gradient_norm(self.networks.module(role).parameters())
            metrics[f"train/{role}_grad_norm"] = norm
        values = torch.stack([value.float() for value in metrics.values()])
        reduced = self.batches.ranks.mean(values).tolist()
        update = Update(dict(zip(metrics, reduced, strict=True)))
        if update.finite:
            for optimizer in optimizers:
                optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return update

    @contextmanager
    def _training_only(self, roles: Sequence[str]) -> Iterator[None]:
        """Gradients for these roles' weights; through the other networks only to their inputs."""
        others = [self.networks.module(name) for name in self.optimizers if name not in roles]
        for network in others:
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in others:
                network.requires_grad_(True)


def _adam(network: nn.Module, settings: AdamConfig) -> torch.optim.Optimizer:
    """Adam with its moments at zero from the start.

    Else torch makes them when the first checkpoint asks for them, by a step that it counts: a run
    that writes checkpoints would begin with other updates than one that does not.
    """
    optimizer = torch.optim.Adam(
        network.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
    for parameter in network.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer
