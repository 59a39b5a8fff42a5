"""What all score distillation shares: a fake score that follows the generator.

Sources: arXiv 2404.04057 (SiD), arXiv 2311.18828 (DMD); for flow matching arXiv 2509.25127.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from workbench.errors import unknown_name
from workbench.flow import expand_like, get_density, get_weighting, x0_from_velocity
from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.reductions import rms
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import guided_velocity


class GuidanceConfig(FrozenConfig):
    """Classifier-free guidance scales; 1 = off, 0 = unconditional.

    A published choice's name (see :data:`GUIDANCE_PRESETS`) may stand wherever these settings do.
    """

    train_fake: float = Field(1.0, description="scale while the fake score is trained")
    eval_fake: float = Field(1.0, description="scale of the fake score in the generator's loss")
    eval_teacher: float = Field(1.0, description="scale of the teacher in the generator's loss")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return guidance_scales(given) if isinstance(given, str) else given


class GuidancePreset(NamedTuple):
    """A published choice of the scales.

    Attributes:
        scales: number -> GuidanceConfig's scales.
        number: what the plain name means; ``NAME-2.5`` is the same choice with 2.5.
    """

    scales: Callable[[float], dict[str, float]]
    number: float | None = None


def _scales(train_fake: float, eval_fake: float, eval_teacher: float) -> dict[str, float]:
    return {"train_fake": train_fake, "eval_fake": eval_fake, "eval_teacher": eval_teacher}


GUIDANCE_PRESETS: Mapping[str, GuidancePreset] = {
    "off": GuidancePreset(lambda _: _scales(1.0, 1.0, 1.0)),
    "long-short": GuidancePreset(lambda scale: _scales(scale, scale, scale), 4.5),
    "zero-cfg": GuidancePreset(lambda _: _scales(0.0, 0.0, 1.0)),
    "anti-cfg": GuidancePreset(lambda scale: _scales(-scale, -scale, 1.0), 1.0),
}
"""Long-short guidance (arXiv 2406.01561), Zero-CFG and Anti-CFG (arXiv 2505.12674).

Long-short guides all three alike, 4.5 in the runs of arXiv 2509.25127. Zero-CFG leaves the teacher
unguided and the fake score without prompts; Anti-CFG guides the fake score by a negative scale."""


def guidance_scales(name: str) -> dict[str, float]:
    """The three scales of a named choice, as ``GuidanceConfig`` has them.

    Raises:
        RequestError: no such name, or no number where one follows it.
    """
    for known, preset in GUIDANCE_PRESETS.items():
        if name == known:
            return preset.scales(preset.number or 0.0)
        number = name.removeprefix(f"{known}-")
        if preset.number is not None and _SCALE.fullmatch(number):
            return preset.scales(float(number))
    forms = [
        form
        for known, preset in GUIDANCE_PRESETS.items()
        for form in ([known] if preset.number is None else [known, f"{known}-{preset.number:g}"])
    ]
    raise unknown_name("guidance", name, forms)


_SCALE = re.compile(r"\d+(\.\d+)?")
"""The number behind a preset's name."""


def _known_weighting(name: str) -> str:
    get_weighting(name)
    return name


WeightingName = Annotated[str, AfterValidator(_known_weighting)]
"""The name of a weighting w(t), checked as a setting."""


class ScoreConfig(FrozenConfig):
    """Settings of every score distillation: where the two scores meet the samples."""

    density: str = Field("sid", description="density of t in both losses")
    t_range: tuple[float, float] = Field((0.0, 1.0), description="truncation of the density of t")
    guidance: GuidanceConfig = GuidanceConfig()
    loss_scale: float = Field(100.0, gt=0, description="factor of the generator's loss")
    fake_score_updates: int = Field(
        1,
        ge=1,
        description="updates of the fake score before each of the generator, each on new samples, "
        "which kimg does not count",
    )

    @model_validator(mode="after")
    def _known_density(self) -> Self:
        get_density(self.density, self.t_range)
        return self


class Diffused(NamedTuple):
    """Samples x_g (B, ...) at noise level t (B,): x_t = (1 - t) x_g + t eps."""

    x_g: Tensor
    x_t: Tensor
    t: Tensor
    eps: Tensor


def fake_score_loss(x_g: Tensor, eps: Tensor, velocity: Tensor) -> Tensor:
    """Mean over the batch of ||(eps - x_g) - v_psi||^2 summed over the latent; a scalar.

    Args:
        x_g: detached generator samples (B, ...).
        eps: the noise that made x_t (B, ...).
        velocity: v_psi(x_t, t, c) (B, ...).
    """
    return (eps - x_g - velocity).square().flatten(1).sum(1).mean()


class ScoreDistillation(Method):
    """A method whose generator is told by two scores: the teacher's, and one of its own samples.

    Each iteration: updates of the fake score, then one of the generator, each on newly drawn
    samples. Updates of the fake score have prompts of their own but the first, which shares the
    generator's; all share the number of steps.

    Attributes:
        fake_score_roles: what an update of the fake score trains.
        fake_score_stream: of the random numbers of an iteration's first one; those of the n-th
            after it are of ``fake_scoreN``.
    """

    roles = ("fake_score", "generator")
    fake_score_roles: ClassVar[tuple[str, ...]] = ("fake_score",)
    fake_score_stream: ClassVar[str] = "fake_score"

    def __init__(self, config: ScoreConfig, generator: GeneratorConfig) -> None:
        super().__init__(generator)
        self.config = config
        self.density = get_density(config.density, config.t_range)

    def guidance_scales(self) -> Mapping[str, float]:
        return {f"guidance.{name}": scale for name, scale in self.config.guidance}

    def diffuse(self, x_g: Tensor, batch: Batch, stream: str) -> Diffused:
        """Samples at times from the density, with fresh noise."""
        t = self.density.sample_from(batch.uniform(f"{stream}/t")).to(x_g)
        eps = batch.normal(f"{stream}/eps")
        return Diffused(x_g, torch.lerp(x_g, eps, expand_like(t, x_g)), t, eps)

    def generated(self, networks: Networks, batch: Batch, stream: str) -> Diffused:
        """Diffused samples of the generator, without gradient."""
        with torch.no_grad():
            x_g = self.sampler.sample(networks.generator, batch, stream)
        return self.diffuse(x_g, batch, stream)

    def phases(self, nimg: int) -> Sequence[Phase]:
        return (*self.fake_score_phases(), Phase(("generator",), self.generator_phase))

    def fake_score_phases(self) -> Sequence[Phase]:
        """An iteration's updates of the fake score."""
        first, count = self.fake_score_stream, self.config.fake_score_updates
        streams = (first, *(f"fake_score{update}" for update in range(1, count)))
        return [
            Phase(self.fake_score_roles, partial(self.fake_score_phase, stream=stream), draw)
            for draw, stream in enumerate(streams)
        ]

    @abstractmethod
    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        """The generator follows the difference of the two scores."""

    def fake_score_phase(
        self, networks: Networks, batch: Batch, stream: str = "fake_score"
    ) -> Loss:
        """The fake score learns the generator's velocity; see :func:`fake_score_loss`."""
        x_g, x_t, t, eps = self.generated(networks, batch, stream)
        velocity = guided_velocity(
            networks.fake_score,
            x_t,
            t,
            batch.cond,
            networks.uncond,
            self.config.guidance.train_fake,
        )
        loss = fake_score_loss(x_g, eps, velocity)
        return Loss(loss, {"train/fake_score_loss": loss.detach()})

    def teacher_estimate(self, networks: Networks, batch: Batch, at: Diffused) -> Tensor:
        """The teacher's x0_hat (B, ...) at x_t, guided by its scale."""
        scale = self.config.guidance.eval_teacher
        velocity = guided_velocity(
            networks.teacher, at.x_t, at.t, batch.cond, networks.uncond, scale
        )
        return x0_from_velocity(at.x_t, at.t, velocity)

    def fake_estimate(self, networks: Networks, batch: Batch, at: Diffused) -> Tensor:
        """The fake score's x0_hat (B, ...) at x_t, guided by its scale."""
        scale = self.config.guidance.eval_fake
        velocity = guided_velocity(
            networks.fake_score, at.x_t, at.t, batch.cond, networks.uncond, scale
        )
        return x0_from_velocity(at.x_t, at.t, velocity)

    def score_metrics(self, x_g: Tensor, f_phi: Tensor, f_psi: Tensor) -> dict[str, Tensor]:
        """What is logged of the two scores, from x_g and both x0_hat (B, ...).

        Without the drag where the fake score is used otherwise than it is trained, or without
        prompts: its optimum there is not the posterior mean of x_g.
        """
        guidance, metrics = self.config.guidance, {"train/score_gap": score_gap(f_phi, f_psi)}
        if guidance.train_fake == guidance.eval_fake != 0:
            metrics["train/score_drag"] = score_drag(x_g, f_phi, f_psi)
        return metrics


def score_gap(f_phi: Tensor, f_psi: Tensor) -> Tensor:
    """Root mean square of f_phi - f_psi over a sample, mean over the batch; a scalar to log."""
    return rms((f_phi - f_psi).detach()).mean()


def score_drag(x_g: Tensor, f_phi: Tensor, f_psi: Tensor) -> Tensor:
    """How far the fake score is from its own optimum, along the gap; a scalar to log.

    Mean over the batch of <f_psi - x_g, g> / sqrt(size of x_g) with g the unit vector along
    f_phi - f_psi (B, ...). The optimum f* is the posterior mean of x_g, whose error no function of
    x_t foretells, so there it is 0. Where f_psi = f* + l (f_phi - f*), still the part l of the way
    back at the teacher, it is l / (1 - l) times :func:`score_gap`.
    """
    gap, error = (f_phi - f_psi).detach().flatten(1), (f_psi - x_g).detach().flatten(1)
    length = gap.square().sum(1).sqrt().clamp_min(torch.finfo(gap.dtype).tiny)
    return ((gap * error).mean(1) / length).mean() * math.sqrt(gap.shape[1])
