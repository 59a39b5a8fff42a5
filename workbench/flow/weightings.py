"""Weightings w(t) of the generator's loss (arXiv 2509.25127, figure 2, rows)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.lookup import Lookup


class Weighting(ABC):
    """A weight per sample, without gradient."""

    name: str

    @abstractmethod
    def __call__(self, t: Tensor, x_g: Tensor, f_phi: Tensor) -> Tensor:
        """Weights (B,).

        Args:
            t: times (B,) in (0, 1).
            x_g: generator samples (B, ...).
            f_phi: the teacher's x0_hat (B, ...).
        """


@dataclass(frozen=True)
class TimeWeighting(Weighting):
    """A function of t alone: ``of_t`` can be plotted, and multiplied with a density."""

    name: str
    of_t: Callable[[Tensor], Tensor]

    def __call__(self, t: Tensor, x_g: Tensor, f_phi: Tensor) -> Tensor:
        return self.of_t(t.detach())


@dataclass(frozen=True)
class SampleWeighting(Weighting):
    """A function of the samples and the teacher's estimates; no function of t, so no ``of_t``."""

    name: str
    of_sample: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, t: Tensor, x_g: Tensor, f_phi: Tensor) -> Tensor:
        return self.of_sample(x_g.detach(), f_phi.detach())


def _inverse_error(x_g: Tensor, f_phi: Tensor) -> Tensor:
    """SiD's 1 / mean |x_g - f_phi| (arXiv 2404.04057); the floor is that of its published code."""
    return 1 / (x_g - f_phi).abs().flatten(1).mean(1).clamp(min=1e-5)


_PUBLISHED: tuple[Weighting, ...] = (
    TimeWeighting("1", torch.ones_like),
    TimeWeighting("1-t", lambda t: 1 - t),
    TimeWeighting("(1-t)^2", lambda t: (1 - t) ** 2),
    TimeWeighting("1/t", lambda t: 1 / t),
    TimeWeighting("1/t^2", lambda t: 1 / t**2),
    TimeWeighting("(1-t)/t", lambda t: (1 - t) / t),
    TimeWeighting("(1-t)^2/t^2", lambda t: (1 - t) ** 2 / t**2),
    SampleWeighting("sid", _inverse_error),
)

WEIGHTINGS = Lookup("weighting", {weighting.name: weighting for weighting in _PUBLISHED})
"""Every known weighting by name; :func:`register_weighting` adds to it."""


def register_weighting(weighting: Weighting) -> None:
    """Make a weighting known by its name, to configurations and to plots.

    Raises:
        RequestError: the name is taken.
    """
    WEIGHTINGS.register(weighting.name, weighting)
