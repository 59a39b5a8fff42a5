"""Training of embedded teachers: an autoencoder by reconstruction, a velocity by flow matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.flow import INTERPOLANTS, loss_weight
from workbench.teachers.base import Conditioning, VelocityNetwork
from workbench.teachers.family import raw_latents
from workbench.teachers.recipe import FlowMatchingRecipe, ReconstructionRecipe

Progress = Callable[[str, int, int], None]
"""(what is being done, steps done, steps in all)."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def train_autoencoder(
    vae: Any, images: Tensor, recipe: ReconstructionRecipe, show: Progress
) -> None:
    """Reconstruction of images (N, 3, H, W) in [0, 1]; latents drawn to mean 0 and variance 1.

    The exact scale is written to the configuration as ``scaling_factor``, and the exact mean as
    ``shift_factor`` where the autoencoder has one. Draws from torch's global random state;
    leaves the autoencoder frozen.
    """
    signals = 2 * images - 1
    optimizer = torch.optim.Adam(vae.parameters(), recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.steps + 1
    )
    for step in range(recipe.steps):
        batch = signals[torch.randint(len(signals), (recipe.batch_size,))]
        latents = raw_latents(vae, batch)
        noisy = latents + recipe.latent_noise * torch.randn_like(latents)
        error = (vae.decode(noisy).sample - batch).square().mean()
        variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
        moments = mean.square().mean() + (variance - 1).square().mean()
        optimizer.zero_grad()
        (error + recipe.moment_weight * moments).backward()
        optimizer.step()
        schedule.step()
        show("autoencoder", step + 1, recipe.steps)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        latents = torch.cat([raw_latents(vae, part) for part in torch.split(signals, 256)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    if getattr(vae.config, "shift_factor", None) is not None:
        vae.register_to_config(shift_factor=latents.mean().item())


@dataclass(frozen=True)
class PromptedLatents:
    """A data set for flow matching.

    Attributes:
        latents: (N, ...), of unit variance.
        labels: which prompts fit each, int64 (N,).
        prompts: encoded prompts, ``wordings`` rows a label, then one row for the empty prompt.
        wordings: prompts of each label.
    """

    latents: Tensor
    labels: Tensor
    prompts: Conditioning
    wordings: int

    def batch(self, size: int, prompt_dropout: float) -> tuple[Tensor, Conditioning]:
        """Random latents, each with a fitting prompt or, at the given rate, the empty one."""
        chosen = torch.randint(len(self.latents), (size,))
        rows = self.labels[chosen] * self.wordings + torch.randint(self.wordings, (size,))
        dropped = torch.rand(size) < prompt_dropout
        rows = torch.where(dropped, len(self.prompts) - 1, rows)
        return self.latents[chosen], self.prompts.select(rows)


def pretrain(
    network: VelocityNetwork, data: PromptedLatents, recipe: FlowMatchingRecipe, show: Progress
) -> None:
    """Conditional flow matching, E w(t) || v(x_t, t, c) - (eps - x_0) ||^2.

    The loss is arXiv 2210.02747's, t is logit-normal (arXiv 2403.03206, section 3.1); w(t) makes
    it the loss of the recipe's interpolant and target. A network that takes guidance as an input
    learns to ignore it. The network ends with the weights' exponential moving average, frozen.
    Draws from torch's global random state.
    """
    distilled_guidance = network.distilled_guidance
    network.requires_grad_(True).train()
    average = deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), recipe.lr, betas=(0.9, recipe.beta2))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, recipe))
    for step in range(recipe.steps):
        x0, cond = data.batch(recipe.batch_size, recipe.prompt_dropout)
        t = torch.sigmoid(recipe.t_mean + recipe.t_std * torch.randn(len(x0)))
        eps = torch.randn_like(x0)
        at = t.view(-1, *[1] * (x0.ndim - 1))
        if distilled_guidance is not None:
            network.distilled_guidance = torch.empty(()).uniform_(*recipe.guidance_range).item()
        error = (network((1 - at) * x0 + at * eps, t, cond) - (eps - x0)).square()
        loss = (velocity_weight(t, recipe) * error.flatten(1).mean(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        _follow(average, network, min(recipe.ema_decay, (step + 1) / (step + 10)))
        show("flow matching", step + 1, recipe.steps)
    network.load_state_dict(average.state_dict())
    network.evaluations, network.distilled_guidance = 0, distilled_guidance
    network.eval().requires_grad_(False)


def velocity_weight(t: Tensor, recipe: FlowMatchingRecipe) -> Tensor:
    """The weight (B,) that turns the velocity's squared error into that of the recipe's target.

    Every target's error is the error of x0_hat times a factor in t (``flow.loss_weight``).

    Raises:
        RequestError: unknown interpolant or target.
    """
    path = INTERPOLANTS[recipe.interpolant]
    wanted = loss_weight(path.coefficients(path.from_rectified(t)), recipe.target)
    given = loss_weight(INTERPOLANTS["rectified_flow"].coefficients(t), "velocity")
    return wanted / given


def _lr_factor(step: int, recipe: FlowMatchingRecipe) -> float:
    warm = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    return warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def _follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
