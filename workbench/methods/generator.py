"""The few-step generator: K alternations of re-noising and one-network denoising.

Source: "Score Distillation of Flow Matching Models" (arXiv 2509.25127); multi-step training after
"Few-Step Diffusion via Score identity Distillation" (arXiv 2505.12674).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from workbench.flow import RectifiedFlow, expand_like, shift_time, x0_from_velocity
from workbench.lookup import Lookup
from workbench.settings import FrozenConfig
from workbench.teachers.base import Conditioning

Velocity = Callable[[Tensor, Tensor, Conditioning | None], Tensor]
"""(x_t (B, ...), t (B,), conditioning of B rows) -> velocity (B, ...): a network, say."""

DrawNoise = Callable[[int], Tensor]
"""Step index -> standard normal noise (B, ...), always the same for the same index."""

NoiseRule = Callable[[int, DrawNoise, Tensor, Tensor, Tensor], Tensor]
"""(step, draw, previous x (B, ...), x0_hat (B, ...), previous t (B,)) -> noise (B, ...)."""


def _fresh(step: int, draw: DrawNoise, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    return draw(step)


def _fixed(step: int, draw: DrawNoise, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    return draw(0)


def _ddim(step: int, draw: DrawNoise, x: Tensor, x0_hat: Tensor, t: Tensor) -> Tensor:
    if step == 0:
        return draw(0)
    t = expand_like(t, x)
    return ((x - (1 - t) * x0_hat) / t).detach()


NOISE_RULES: Lookup[NoiseRule] = Lookup(
    "noise type", {"fresh": _fresh, "fixed": _fixed, "ddim": _ddim}
)
"""How step i gets its noise: drawn anew, always z, or implied by the trajectory (plain Euler)."""


def step_times(steps: int, flow_shift: float = 1.0) -> Tensor:
    """t_i = 1 - i/K for i = 0..K-1, optionally flow-shifted; float32 (K,)."""
    t = 1 - torch.arange(steps, dtype=torch.float64) / steps
    return shift_time(t, flow_shift).float()


class GeneratorConfig(FrozenConfig):
    """The student's sampler, the same in training and in use."""

    steps: int = Field(4, ge=1, le=1000, description="K, the number of generator steps")
    noise: Annotated[str, AfterValidator(NOISE_RULES.check)] = Field(
        "fresh", description="noise of each step: fresh, fixed or ddim"
    )
    flow_shift: float = Field(1.0, gt=0, description="shift of the step times; 1 = none")
    distilled_guidance: float = Field(
        1.0, description="guidance fed to a student that takes one as an input (FLUX, SANA-Sprint)"
    )


class FewStepSampler:
    """The generator as settings describe it: one sampler for training, evaluation and use."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.times: list[float] = step_times(config.steps, config.flow_shift).tolist()
        self.noise_rule = NOISE_RULES[config.noise]

    def sample(
        self,
        network: Velocity,
        cond: Conditioning | None,
        draw: DrawNoise,
        evaluations: int | None = None,
    ) -> Tensor:
        """Run the first ``evaluations`` of the K steps and return their last x0_hat (B, ...).

        Step i: x = (1 - t_i) x0_hat + t_i n_i, then x0_hat = x - t_i v(x, t_i), from x0_hat = 0.
        Only the last evaluation carries gradient. Network evaluations: ``evaluations`` per sample.

        Args:
            draw: noise of a step index; its batch size and device are the output's.
            evaluations: k in 1..K; all K by default.

        Raises:
            ValueError: ``evaluations`` outside 1..K.
        """
        last = (len(self.times) if evaluations is None else evaluations) - 1
        if not 0 <= last < len(self.times):
            raise ValueError(f"evaluations must be in 1..{len(self.times)}, not {last + 1}")
        first = draw(0)  # drawn once: noise of large latents costs as much as a small network
        x = x0_hat = torch.zeros_like(first)
        t = x.new_zeros(x.shape[0])
        for step, time in enumerate(self.times[: last + 1]):
            noise = self.noise_rule(step, lambda i: draw(i) if i else first, x, x0_hat, t)
            t = x.new_full((x.shape[0],), time)  # filled where it is used: copying would wait
            x = RectifiedFlow().interpolate(x0_hat, noise, t)
            with torch.set_grad_enabled(torch.is_grad_enabled() and step == last):
                x0_hat = x0_from_velocity(x, t, network(x, t, cond))
        return x0_hat
