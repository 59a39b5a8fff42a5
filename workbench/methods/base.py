"""What a distillation method is to the engine: phases, each training one role by one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from workbench.methods.batch import Batch
from workbench.methods.generator import FewStepSampler, GeneratorConfig
from workbench.teachers.base import Conditioning, VelocityNetwork


@dataclass(frozen=True)
class Networks:
    """The roles of a distillation. Methods that need a role read it here by its name."""

    teacher: VelocityNetwork
    trained: Mapping[str, VelocityNetwork]
    uncond: Conditioning | None

    @property
    def generator(self) -> VelocityNetwork:
        return self.trained["generator"]

    @property
    def fake_score(self) -> VelocityNetwork:
        return self.trained["fake_score"]


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise (mean over the micro-batch) and what to log beside it."""

    value: Tensor
    metrics: Mapping[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimiser step of an iteration: the role it trains and the loss it trains it on."""

    role: str
    loss: Callable[[Networks, Batch], Loss]


class Method(ABC):
    """A distillation method: a list of phases over named roles. The engine knows no method by name.

    Every trained role starts as a copy of the teacher; ``generator`` is always among them and
    is the one that is averaged (EMA), evaluated and exported.
    """

    roles: tuple[str, ...]

    def __init__(self, generator: GeneratorConfig) -> None:
        self.sampler = FewStepSampler(generator)

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The optimiser steps of one iteration, in order."""
