"""f-distill: distribution matching for any f-divergence, by weighting the score difference.

Source: "One-step Diffusion Models with f-Divergence Distribution Matching" (arXiv 2502.15681):
the gradient of D_f(p_real || p_fake) is that of DMD times h(r) = r^2 f''(r), where the density
ratio r = p_real / p_fake = exp(logit) comes from the discriminator that DMD2 has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from workbench.errors import unknown_name
from workbench.methods.dmd2 import DMD2, DMD2Settings
from workbench.methods.generator import GeneratorConfig

_MAX_LOGIT = 5.0
"""A discriminator that is nearly sure knows no ratio: r stays within e^-5 and e^5."""

DIVERGENCES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "reverse-kl": torch.ones_like,
        "jensen-shannon": lambda r: r / (1 + r),
        "squared-hellinger": lambda r: r.sqrt() / 2,
        "forward-kl": lambda r: r,
        "jeffreys": lambda r: 1 + r,
    }
)
"""Name -> h(r) = r^2 f''(r), from the most mode-seeking to the most mode-covering but the last,
which is both."""


def get_divergence(name: str) -> Callable[[Tensor], Tensor]:
    """h of a divergence.

    Raises:
        RequestError: unknown name.
    """
    if name not in DIVERGENCES:
        raise unknown_name("f-divergence", name, DIVERGENCES)
    return DIVERGENCES[name]


class FDistillConfig(DMD2Settings):
    """f-distill, with Jensen-Shannon's divergence unless told, one of its paper's."""

    name: Literal["f_distill"] = "f_distill"
    divergence: str = Field("jensen-shannon", description=f"one of {', '.join(DIVERGENCES)}")

    @field_validator("divergence")
    @classmethod
    def _known_divergence(cls, name: str) -> str:
        get_divergence(name)
        return name


class FDistill(DMD2):
    """DMD2 whose score difference is weighted by h(r).

    The paper also divides h by its mean within bins of t. That mean would couple the samples of a
    batch, and so depend on ranks and micro-batches; under Adam only its course in t matters.
    """

    def __init__(self, config: FDistillConfig, generator: GeneratorConfig) -> None:
        super().__init__(config, generator)
        self.h = get_divergence(config.divergence)

    def importance(self, logits: Tensor) -> Tensor:
        """h(r) with r = exp(logit), (B,)."""
        return self.h(logits[:, 0].clamp(-_MAX_LOGIT, _MAX_LOGIT).exp())
