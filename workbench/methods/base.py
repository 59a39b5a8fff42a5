"""What a distillation method is to the trainer: phases, each training some networks by one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.methods.batch import Batch
from workbench.methods.generator import NOISE_RULES, FewStepSampler, GeneratorConfig
from workbench.settings import FrozenConfig
from workbench.teachers.base import Conditioning, VelocityNetwork


@dataclass(frozen=True)
class Networks:
    """The roles of a distillation. Methods that need a role read it here by its name.

    ``heads`` are small modules of the method's own, beside the copies of the teacher.
    """

    teacher: VelocityNetwork
    trained: Mapping[str, VelocityNetwork]
    uncond: Conditioning | None
    heads: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def generator(self) -> VelocityNetwork:
        return self.trained["generator"]

    @property
    def fake_score(self) -> VelocityNetwork:
        return self.trained["fake_score"]

    def module(self, name: str) -> nn.Module:
        """A trained role or a head."""
        return self.trained[name] if name in self.trained else self.heads[name]


@dataclass(frozen=True)
class Loss:
    """A scalar to minimize (mean over the micro-batch) and the metrics to log."""

    value: Tensor
    metrics: Mapping[str, Tensor]


@dataclass(frozen=True)
class Phase:
    """One optimizer step of an iteration: the roles and heads it trains, on one loss.

    Attributes:
        draw: which draw of prompts it works on. Phases of one iteration that repeat a role use
            different draws; phases of the same draw get the same batches.
        frozen: trained roles and heads that the loss's gradient only passes through, on its way to
            their inputs. The loss runs all others without gradient.
    """

    roles: tuple[str, ...]
    loss: Callable[[Networks, Batch], Loss]
    draw: int = 0
    frozen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its first role."""
        return self.roles[0]

    @property
    def label(self) -> str:
        """A name that is unique among the phases of an iteration."""
        return f"{self.name} (draw {self.draw})" if self.draw else self.name


def rms(x: Tensor) -> Tensor:
    """Root mean square of each sample (B, ...), (B,): no split of a batch changes its mean."""
    return x.square().flatten(1).mean(1).sqrt()


MakeHead = Callable[[VelocityNetwork], nn.Module]
"""A trained network -> a module beside it, with weights drawn from torch's seed."""


class Method(ABC):
    """A distillation method: phases over named roles. The trainer knows no method by name.

    Every trained role starts as a copy of the teacher; ``generator`` is always among them and
    is the one that is averaged (EMA), evaluated and exported. Checkpoints hold every trained role
    and head with its moments, and the average.

    Attributes:
        roles: copies of the teacher that are trained.
        heads: modules of its own that are trained, by name.
        needs_pairs: whether its losses ask the batch for image-text pairs.
        needs_prompts: whether they use the run's prompts; else only those of the pairs.
        noise_types: those of the sampler that its students work with, the default first.
        partial_steps: whether the student's x0_hat is a sample after each of its K steps. A student
            of a trajectory is one only at its end.
    """

    roles: ClassVar[tuple[str, ...]]
    heads: ClassVar[Mapping[str, MakeHead]] = MappingProxyType({})
    needs_pairs: ClassVar[bool] = False
    needs_prompts: ClassVar[bool] = True
    noise_types: ClassVar[tuple[str, ...]] = tuple(NOISE_RULES)
    partial_steps: ClassVar[bool] = True

    def __init__(self, config: FrozenConfig, generator: GeneratorConfig) -> None:
        self.config = config
        self.sampler = FewStepSampler(generator)

    @abstractmethod
    def phases(self, nimg: int) -> Sequence[Phase]:
        """The optimizer steps of the iteration that begins at ``nimg`` images, in order."""

    def guidance_scales(self) -> Mapping[str, float]:
        """Setting -> scale of classifier-free guidance; without an empty prompt each must be 1."""
        scale = getattr(self.config, "cfg_scale", None)
        return {} if scale is None else {"cfg_scale": scale}

    def check_no_guidance(self) -> None:
        """Refuse guidance where the teacher has no empty prompt.

        Raises:
            RequestError: names the settings whose scales are not 1.
        """
        asked = [f"method.{k}={v:g}" for k, v in self.guidance_scales().items() if v != 1.0]
        if asked:
            raise RequestError(
                f"{', '.join(asked)}: guidance needs an unconditional encoding, and this teacher "
                "has none. Use scale 1 (off)."
            )

    def warmup_kimg(self) -> float:
        """Images (in kimg) after which every part of the method has begun; 0 without warm-ups."""
        return 0.0
