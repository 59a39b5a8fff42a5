"""The computing plan of the published SiD-DiT scripts, in plain torch: what ours is compared with.

A rollout for the fake score and another for the generator, a full copy of the network for every
role and for the average, Adam and the average in torch's default loops, and both losses read by the
host in every iteration. Text encoders, gradient scans and reports are left out, in its favor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workbench.flow import get_density
from workbench.methods.sid import SiDConfig
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.weights import (
    ModuleWeights,
    fill,
    give_memory,
    on_meta,
    sharing_memory,
    stored,
    without_weights,
)
from workbench.training.config import RunConfig
from workbench.training.ema import ema_decay
from workbench.training.networks import DistillationInputs


class OfficialPlan:
    """One iteration of the published scripts, in plain torch.

    Args:
        student: the teacher and its prompts; its weights are not modified.
        config: scales, density, learning rates, batch, precision and checkpointing are taken.
        freezes: the fake score's weights gather no gradient in the generator's update, as the
            published scripts have it; else one gathers there and is thrown away.
        light: fused Adam and the average in one call, as ours; not what the scripts do.
    """

    def __init__(
        self,
        student: DistillationInputs,
        config: RunConfig,
        device: torch.device,
        freezes: bool = True,
        light: bool = False,
    ) -> None:
        self.config, self.student, self.device, self.freezes = config, student, device, freezes
        self.light, self.steps = light, config.generator.steps
        self.mixed = config.training.precision != "fp32"
        assert isinstance(config.method, SiDConfig)  # SiD2a's settings are SiD's, and more
        self.settings = config.method
        self.density = get_density(self.settings.density, self.settings.t_range)
        self.bytes_in_place = 0  # of a teacher that is the student's own, not a copy
        self.teacher = self._network(trained=False)
        self.generator, self.fake_score = self._network(), self._network()
        self.average = self._network(dtype=torch.float32, trained=False)
        self.uncond = student.uncond.to(device) if student.uncond else None
        self.optimizers = {
            role: torch.optim.Adam(
                getattr(self, role).parameters(),
                lr=settings.lr,
                betas=(settings.beta1, settings.beta2),
                eps=settings.eps,
                fused=True if light else None,
            )
            for role, settings in config.training.optimizers.items()
        }

    def _network(self, dtype: torch.dtype | None = None, trained: bool = True) -> VelocityNetwork:
        source = self.student.teacher
        frozen = torch.bfloat16 if self.mixed else torch.float32
        kind = torch.float32 if trained else dtype or frozen
        here = not on_meta(source) and next(source.parameters()).device == self.device
        if dtype is None and not trained and kind is torch.float32 and here:
            network = sharing_memory(source)
            self.bytes_in_place = sum(value.nbytes for value in network.parameters())
        else:
            network = self.copy(kind)
        network.train(False).requires_grad_(trained)
        network.evaluations = network.backward_evaluations = 0
        if network.distilled_guidance is not None and (trained or dtype):
            network.distilled_guidance = self.config.generator.distilled_guidance
        if self.config.training.gradient_checkpointing:
            network.enable_gradient_checkpointing()
        return network

    def copy(self, dtype: torch.dtype) -> VelocityNetwork:
        """The teacher's network in memory of its own."""
        source = self.student.teacher
        network = without_weights(source, dtype, {})
        give_memory(network, self.device)
        fill(stored(network.module), self.student.weights or ModuleWeights(source.module))
        return network

    def read(self, value: Tensor) -> float:
        """What the host waits for."""
        return value.item()

    def train_step(self, k: int, draws: Draws | None = None) -> tuple[float, float]:
        """Both updates with k generator steps; the unscaled losses of fake score and generator."""
        draws = draws or Draws(self)
        fake = self._update("fake_score", self.fake_score_loss, k, draws)
        if self.freezes:
            self.fake_score.requires_grad_(False)
        generator = self._update("generator", self.generator_loss, k, draws)
        self.fake_score.requires_grad_(True)
        decay = ema_decay(
            self.config.training.batch_size, 1000 * self.config.training.ema_halflife_kimg
        )
        with torch.no_grad():
            average: list[Tensor] = list(self.average.parameters())
            trained: list[Tensor] = list(self.generator.parameters())
            if self.light:
                torch._foreach_lerp_(average, trained, 1 - decay)
            else:
                for kept, now in zip(average, trained, strict=True):
                    kept.copy_(now.detach().lerp(kept, decay))
        return fake, generator

    def _update(
        self,
        role: str,
        loss: Callable[[int, Conditioning, Draws, str], tuple[Tensor, float]],
        k: int,
        draws: Draws,
    ) -> float:
        """Gradients gathered over micro-batches, and a step."""
        optimizer, total = self.optimizers[role], torch.zeros((), device=self.device)
        optimizer.zero_grad(set_to_none=True)
        for share, cond in draws.batches(role):
            value, scale = loss(k, cond, draws, role)
            torch.autograd.backward(scale * share * value)
            total += share * value.detach()
        optimizer.step()
        return self.read(total)

    def rollout(self, k: int, cond: Conditioning, draws: Draws, role: str, graph: bool) -> Tensor:
        """x_g (B, ...) after k of the generator's steps; the last one may carry a graph."""
        x_g = torch.zeros((len(cond), *self.student.latent_shape), device=self.device)
        for step in range(k):
            t = torch.full((len(cond),), 1 - step / self.steps, device=self.device)
            x = (1 - _wide(t, x_g)) * x_g + _wide(t, x_g) * draws.normal(f"{role}/step{step}", x_g)
            with torch.set_grad_enabled(graph and step == k - 1):
                x_g = x - _wide(t, x) * self.velocity(self.generator, x, t, cond)
        return x_g

    def velocity(
        self, network: VelocityNetwork, x: Tensor, t: Tensor, cond: Conditioning, scale: float = 1.0
    ) -> Tensor:
        """(B, ...); with guidance conditional and unconditional in one batch of 2 B."""
        if scale == 1.0:
            return self._computed(network, x, t, cond).float()
        assert self.uncond is not None
        empty = self.uncond.expand(len(x))
        if scale == 0.0:
            return self._computed(network, x, t, empty).float()
        both = Conditioning.cat([empty, cond])
        twice = x.repeat(2, *[1] * (x.ndim - 1))
        v_uncond, v_cond = self._computed(network, twice, t.repeat(2), both).chunk(2)
        return v_uncond + scale * (v_cond - v_uncond)

    def _computed(
        self, network: VelocityNetwork, x: Tensor, t: Tensor, cond: Conditioning
    ) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
            found: Tensor = network(x, t, cond)
        return found

    def diffused(self, x_g: Tensor, draws: Draws, role: str) -> tuple[Tensor, Tensor, Tensor]:
        """x_t and eps (B, ...), t (B,)."""
        t = self.density.quantile(draws.uniform(f"{role}/t", len(x_g))).to(x_g)
        eps = draws.normal(f"{role}/eps", x_g)
        return (1 - _wide(t, x_g)) * x_g + _wide(t, x_g) * eps, eps, t

    def fake_score_loss(
        self, k: int, cond: Conditioning, draws: Draws, role: str
    ) -> tuple[Tensor, float]:
        with torch.no_grad():
            x_g = self.rollout(k, cond, draws, role, graph=False)
        x_t, eps, t = self.diffused(x_g, draws, role)
        scale = self.settings.guidance.train_fake
        velocity = self.velocity(self.fake_score, x_t, t, cond, scale)
        return (velocity - (eps - x_g)).square().sum() / len(x_g), 1.0

    def generator_loss(
        self, k: int, cond: Conditioning, draws: Draws, role: str
    ) -> tuple[Tensor, float]:
        scales, method = self.settings.guidance, self.settings
        x_g = self.rollout(k, cond, draws, role, graph=True)
        x_t, _, t = self.diffused(x_g, draws, role)
        wide = _wide(t, x_g)
        fake = x_t - wide * self.velocity(self.fake_score, x_t, t, cond, scales.eval_fake)
        real = x_t - wide * self.velocity(self.teacher, x_t, t, cond, scales.eval_teacher)
        gap = real - fake
        value = ((1 - wide) * gap * ((real - x_g) - method.sid_alpha * gap)).sum() / len(x_g)
        return value, method.loss_scale

    def evaluations(self) -> tuple[int, int]:
        """Network evaluations so far, forward and backward."""
        networks = (self.teacher, self.generator, self.fake_score)
        return sum(n.evaluations for n in networks), sum(n.backward_evaluations for n in networks)


class Draws:
    """Random numbers and prompts of an iteration, from torch's global state."""

    def __init__(self, plan: OfficialPlan) -> None:
        self.plan = plan

    def batches(self, role: str) -> Iterator[tuple[float, Conditioning]]:
        """Share of the batch, and prompts, of each micro-batch."""
        training, prompts = self.plan.config.training, self.plan.student.prompts
        size = training.batch_size
        micro = training.micro_batch_size or size
        assert prompts is not None
        for start in range(0, size, micro):
            count = min(micro, size - start)
            cond = prompts.select(torch.randint(len(prompts), (count,)))
            yield count / size, cond.to(self.plan.device)

    def normal(self, stream: str, like: Tensor) -> Tensor:
        return torch.randn_like(like)

    def uniform(self, stream: str, count: int) -> Tensor:
        return torch.rand(count, dtype=torch.float64, device=self.plan.device)


def _wide(t: Tensor, x: Tensor) -> Tensor:
    return t.view(-1, *[1] * (x.ndim - 1))
