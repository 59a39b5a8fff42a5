"""Score identity Distillation for flow-matching teachers (arXiv 2509.25127, data-free).

One iteration: the fake score learns the velocity of the generator's samples, then the generator
follows the difference of the two scores. Other score distillations (DMD and those built on it) are
the same iteration with another loss of the generator.

Sources: arXiv 2404.04057 (SiD), arXiv 2311.18828 (DMD); for flow matching arXiv 2509.25127.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from workbench.flow import WEIGHTINGS, RectifiedFlow, Weighting, get_density
from workbench.methods.base import Loss, Method, Networks, Phase, rms
from workbench.methods.batch import Batch
from workbench.methods.generator import GeneratorConfig
from workbench.methods.guidance import GuidanceConfig
from workbench.settings import FrozenConfig
from workbench.teachers.guidance import denoise

WeightingName = Annotated[str, AfterValidator(WEIGHTINGS.check)]
"""The name of a weighting w(t), checked as a setting."""


class ScoreConfig(FrozenConfig):
    """Settings that every score distillation shares."""

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
    share_rollout: bool = Field(
        False,
        description="the generator's update uses the samples of the first update of the fake score "
        "instead of drawing its own; their graph is kept in between",
    )

    @model_validator(mode="after")
    def _known_density(self) -> Self:
        get_density(self.density, self.t_range)
        return self


class SiDConfig(ScoreConfig):
    """Settings of data-free SiD."""

    sid_alpha: float = Field(1.0, description="a in the generator's loss; 1.2 for EDM in SiD")
    weighting: WeightingName = Field("1-t", description="w(t) of the generator's loss")
    name: Literal["sid"] = "sid"


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


def sid_loss(
    x_g: Tensor, f_phi: Tensor, f_psi: Tensor, t: Tensor, weighting: Weighting, sid_alpha: float
) -> Tensor:
    """Mean of w(t) sum[(f_phi - f_psi) ((f_phi - x_g) - a (f_phi - f_psi))]; a scalar.

    The loss of SiD (arXiv 2404.04057) in x_0 terms, as arXiv 2509.25127 uses it. Nothing but w is
    detached: the gradient reaches the generator through x_g and through the input of both
    networks.

    Args:
        x_g: generator samples (B, ...).
        f_phi: the teacher's x0_hat at x_t (B, ...).
        f_psi: the fake score's x0_hat at x_t (B, ...).
        t: times (B,).
    """
    gap = f_phi - f_psi
    per_sample = (gap * ((f_phi - x_g) - sid_alpha * gap)).flatten(1).sum(1)
    return (weighting(t, x_g, f_phi) * per_sample).mean()


class ScoreDistillation(Method):
    """The iteration: updates of the fake score, then one of the generator.

    Each works on newly drawn samples (but see ``share_rollout``). Updates of the fake score have
    prompts of their own but the first, which shares the generator's; all share the number of steps.

    Attributes:
        fake_score_roles: what an update of the fake score trains.
        fake_score_stream: of the random numbers of an iteration's first one; those of the n-th
            after it are of ``fake_scoreN``.
    """

    roles = ("fake_score", "generator")
    config: ScoreConfig
    fake_score_roles: ClassVar[tuple[str, ...]] = ("fake_score",)
    fake_score_stream: ClassVar[str] = "fake_score"

    def __init__(self, config: ScoreConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.density = get_density(config.density, config.t_range)

    def guidance_scales(self) -> Mapping[str, float]:
        return {f"guidance.{name}": scale for name, scale in self.config.guidance}

    def phases(self, nimg: int) -> Sequence[Phase]:
        generator = Phase(("generator",), self.generator_phase, frozen=self.fake_score_roles)
        return (*self.fake_score_phases(share=self.config.share_rollout), generator)

    def fake_score_phases(self, share: bool = False) -> Sequence[Phase]:
        """An iteration's updates of the fake score.

        Args:
            share: the first one leaves its samples to an update of the generator that follows.
        """
        first, count = self.fake_score_stream, self.config.fake_score_updates
        streams = (first, *(f"fake_score{update}" for update in range(1, count)))
        losses = [partial(self.fake_score_phase, stream=stream) for stream in streams]
        if share:
            losses[0] = partial(losses[0], share=True)
        return [Phase(self.fake_score_roles, loss, draw) for draw, loss in enumerate(losses)]

    def fake_score_phase(
        self, networks: Networks, batch: Batch, stream: str = "fake_score", share: bool = False
    ) -> Loss:
        """The fake score learns the generator's velocity; see :func:`fake_score_loss`."""
        x_g, x_t, t, eps = self.generated(networks, batch, stream, share)
        scale = self.config.guidance.train_fake
        psi = denoise(networks.fake_score, x_t, t, batch.cond, networks.uncond, scale)
        loss = fake_score_loss(x_g, eps, psi.velocity)
        return Loss(loss, {"train/fake_score_loss": loss.detach()})

    @abstractmethod
    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        """The generator follows the difference of the two scores."""

    def generated(
        self, networks: Networks, batch: Batch, stream: str, share: bool = False
    ) -> Diffused:
        """Diffused samples of the generator, without gradient; shared ones stay with the batch."""
        if share:
            batch.kept[_ROLLOUT] = self.rollout(networks, batch)
            return self.diffuse(batch.kept[_ROLLOUT].detach(), batch, stream)
        with torch.no_grad():
            x_g = self.sampler.sample(
                networks.generator, batch.cond, batch.steps(stream), batch.evaluations
            )
        return self.diffuse(x_g, batch, stream)

    def rollout(self, networks: Networks, batch: Batch) -> Tensor:
        """x_g (B, ...) with gradient: newly drawn, or what an update of the fake score has kept."""
        if _ROLLOUT in batch.kept:
            return batch.kept.pop(_ROLLOUT)
        noise = batch.steps("generator")
        return self.sampler.sample(networks.generator, batch.cond, noise, batch.evaluations)

    def diffuse(self, x_g: Tensor, batch: Batch, stream: str) -> Diffused:
        """Samples at times from the density, with fresh noise."""
        t = self.density.quantile(batch.uniform(f"{stream}/t"))
        t = t.to(x_g.device, x_g.dtype, non_blocking=True)
        eps = batch.normal(f"{stream}/eps")
        return Diffused(x_g, RectifiedFlow().interpolate(x_g, eps, t), t, eps)

    def both_scores(self, networks: Networks, batch: Batch, at: Diffused) -> tuple[Tensor, Tensor]:
        """x0_hat (B, ...) of teacher and fake score at x_t, each guided by its scale."""
        guidance, cond, uncond = self.config.guidance, batch.cond, networks.uncond
        phi = denoise(networks.teacher, at.x_t, at.t, cond, uncond, guidance.eval_teacher)
        psi = denoise(networks.fake_score, at.x_t, at.t, cond, uncond, guidance.eval_fake)
        return phi.x0_hat, psi.x0_hat

    def score_metrics(self, x_g: Tensor, f_phi: Tensor, f_psi: Tensor) -> dict[str, Tensor]:
        """Metrics of the two scores, from x_g and both x0_hat (B, ...).

        ``score_drag`` is left out if the fake score is used with another guidance than it is
        trained with, or without prompts: its optimum is not the posterior mean of x_g then.
        """
        guidance, metrics = self.config.guidance, {"train/score_gap": score_gap(f_phi, f_psi)}
        if guidance.train_fake == guidance.eval_fake != 0:
            metrics["train/score_drag"] = score_drag(x_g, f_phi, f_psi)
        return metrics


class SiD(ScoreDistillation):
    """The generator descends SiD's loss, :func:`sid_loss`."""

    config: SiDConfig

    def __init__(self, config: SiDConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.weighting = WEIGHTINGS[config.weighting]

    def generator_phase(self, networks: Networks, batch: Batch) -> Loss:
        at = self.diffuse(self.rollout(networks, batch), batch, "generator")
        f_phi, f_psi = self.both_scores(networks, batch, at)
        loss = self.sid(f_phi, f_psi, at)
        return Loss(self.config.loss_scale * loss.value, loss.metrics)

    def sid(self, f_phi: Tensor, f_psi: Tensor, at: Diffused) -> Loss:
        """The unscaled loss of the generator from both estimates (B, ...)."""
        value = sid_loss(at.x_g, f_phi, f_psi, at.t, self.weighting, self.config.sid_alpha)
        metrics = self.score_metrics(at.x_g, f_phi, f_psi)
        return Loss(value, {"train/generator_loss": value.detach(), **metrics})


_ROLLOUT = "rollout"


def score_gap(f_phi: Tensor, f_psi: Tensor) -> Tensor:
    """Root mean square of f_phi - f_psi over a sample, mean over the batch; a scalar to log."""
    return rms((f_phi - f_psi).detach()).mean()


def score_drag(x_g: Tensor, f_phi: Tensor, f_psi: Tensor) -> Tensor:
    """How far the fake score is from its own optimum, along the gap; a scalar to log.

    Mean over the batch of <f_psi - x_g, g> / sqrt(size of x_g) with g the unit vector along
    f_phi - f_psi (B, ...). The optimum f* is the posterior mean of x_g, whose error is orthogonal
    to every function of x_t, so there it is 0. If f_psi = f* + l (f_phi - f*), with the part l of
    the way from the teacher still ahead, it is l / (1 - l) times :func:`score_gap`.
    """
    gap, error = (f_phi - f_psi).detach().flatten(1), (f_psi - x_g).detach().flatten(1)
    length = gap.square().sum(1).sqrt().clamp_min(torch.finfo(gap.dtype).tiny)
    return ((gap * error).mean(1) / length).mean() * math.sqrt(gap.shape[1])
