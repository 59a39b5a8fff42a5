"""f-distill: distribution matching for any f-divergence, by weighting the score difference.

Source: "One-step Diffusion Models with f-Divergence Distribution Matching" (arXiv 2502.15681):
the gradient of D_f(p_real || p_fake) is that of DMD times h(r) = r^2 f''(r), where the density
ratio r = p_real / p_fake = exp(logit) comes from the discriminator that DMD2 has anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from workbench.lookup import Lookup
from workbench.methods.dmd2 import DMD2, DMD2Config
from workbench.methods.generator import GeneratorConfig

_MAX_LOGIT = 5.0
"""A discriminator that is nearly sure knows no ratio: r stays within e^-5 and e^5."""

DIVERGENCES: Lookup[Callable[[Tensor], Tensor]] = Lookup(
    "f-divergence",
    {
        "reverse-kl": torch.ones_like,
        "jensen-shannon": lambda r: r / (1 + r),
        "squared-hellinger": lambda r: r.sqrt() / 2,
        "forward-kl": lambda r: r,
        "jeffreys": lambda r: 1 + r,
    },
)
"""Name -> h(r) = r^2 f''(r), from the most mode-seeking to the most mode-covering but the last,
which is both."""


class FDistillConfig(DMD2Config):
    """Settings of f-distill; Jensen-Shannon's divergence is one of its paper's."""

    name: Literal["f_distill"] = "f_distill"  # type: ignore[assignment]  # another method's
    divergence: Annotated[str, AfterValidator(DIVERGENCES.check)] = Field(
        "jensen-shannon", description=f"one of {', '.join(DIVERGENCES)}"
    )


class FDistill(DMD2):
    """DMD2 whose score difference is weighted by h(r).

    The paper also divides h by its mean within bins of t. That mean would couple the samples of a
    batch, and so depend on ranks and micro-batches; under Adam only its course in t matters.
    """

    def __init__(self, config: FDistillConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.h = DIVERGENCES[config.divergence]

    def importance(self, logits: Tensor) -> Tensor:
        """h(r) with r = exp(logit), (B,)."""
        return self.h(logits[:, 0].clamp(-_MAX_LOGIT, _MAX_LOGIT).exp())
