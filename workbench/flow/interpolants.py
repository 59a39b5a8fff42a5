"""Gaussian interpolants x_s = alpha(s) x_0 + sigma(s) eps and their map to rectified flow.

Two interpolants agree where their signal-to-noise ratios do. Aligned to rectified flow that is
t = 1 / (1 + sqrt(SNR)) = sigma / (alpha + sigma), and x_t = x_s / (alpha + sigma)
(arXiv 2509.25127, the unification).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from workbench.lookup import Lookup


def expand_like(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) with trailing singleton dimensions, so that it broadcasts against x (B, ...).

    It takes x's precision, but never less than float32: times drawn in float64 do not promote
    a float32 latent, and a bfloat16 latent does not round its times.
    """
    wide = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
    return wide.to(torch.promote_types(x.dtype, torch.float32))


@dataclass(frozen=True)
class Coefficients:
    """alpha, sigma and their derivatives in the interpolant's own time, each shaped like it."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    def expand_like(self, x: Tensor) -> Coefficients:
        """The same coefficients, broadcasting against x (B, ...)."""
        parts = (self.alpha, self.sigma, self.d_alpha, self.d_sigma)
        return Coefficients(*(expand_like(part, x) for part in parts))

    @property
    def snr(self) -> Tensor:
        """alpha^2 / sigma^2; infinite where sigma = 0."""
        return (self.alpha / self.sigma).square()

    @property
    def t(self) -> Tensor:
        """The aligned rectified-flow time 1 / (1 + sqrt(SNR)), finite at both ends."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def wronskian(self) -> Tensor:
        """alpha d_sigma - sigma d_alpha: how fast noise replaces data; 1 on rectified flow."""
        return self.alpha * self.d_sigma - self.sigma * self.d_alpha

    @property
    def d_t(self) -> Tensor:
        """d t / d s of the aligned rectified-flow time."""
        return self.wronskian / (self.alpha + self.sigma).square()


class Interpolant(ABC):
    """A Gaussian path in its own time s, of shape (B,), rising from data to noise."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def time_range(self) -> tuple[float, float]:
        """The own times that networks of this interpolant know."""

    @abstractmethod
    def coefficients(self, s: Tensor) -> Coefficients:
        """alpha, sigma and derivatives at s, in its dtype."""

    @abstractmethod
    def from_rectified(self, t: Tensor) -> Tensor:
        """The own time whose SNR is that of rectified flow at t in (0, 1).

        It may lie outside :attr:`time_range`, and is infinite where the path reaches an end
        of rectified flow only in the limit (VP: both ends, EDM: t = 1).
        """

    def to_rectified(self, s: Tensor) -> Tensor:
        """The rectified-flow time with the same SNR."""
        return self.coefficients(s).t

    def snr(self, s: Tensor) -> Tensor:
        """alpha^2 / sigma^2."""
        return self.coefficients(s).snr

    def interpolate(self, x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
        """x_s (B, ...) from data and noise (B, ...)."""
        c = self.coefficients(s).expand_like(x0)
        return c.alpha * x0 + c.sigma * eps

    def to_rectified_x(self, x_s: Tensor, s: Tensor) -> Tensor:
        """The aligned rectified-flow sample x_t = x_s / (alpha + sigma), (B, ...)."""
        c = self.coefficients(s).expand_like(x_s)
        return x_s / (c.alpha + c.sigma)

    def from_rectified_x(self, x_t: Tensor, s: Tensor) -> Tensor:
        """The own sample x_s = (alpha + sigma) x_t at own time s, (B, ...)."""
        c = self.coefficients(s).expand_like(x_t)
        return x_t * (c.alpha + c.sigma)


@dataclass(frozen=True)
class RectifiedFlow(Interpolant):
    """alpha = 1 - t, sigma = t (arXiv 2209.03003)."""

    name: ClassVar[str] = "rectified_flow"

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, 1.0

    def coefficients(self, s: Tensor) -> Coefficients:
        return Coefficients(1 - s, s, -torch.ones_like(s), torch.ones_like(s))

    def interpolate(self, x0: Tensor, eps: Tensor, s: Tensor) -> Tensor:
        return torch.lerp(x0, eps, expand_like(s, x0))

    def from_rectified(self, t: Tensor) -> Tensor:
        return t


@dataclass(frozen=True)
class TrigFlow(Interpolant):
    """alpha = cos s, sigma = sin s, s in [0, pi/2] (arXiv 2410.11081), for unit-variance noise."""

    name: ClassVar[str] = "trigflow"

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, math.pi / 2

    def coefficients(self, s: Tensor) -> Coefficients:
        return Coefficients(s.cos(), s.sin(), -s.sin(), s.cos())

    def from_rectified(self, t: Tensor) -> Tensor:
        return torch.atan2(t, 1 - t)


@dataclass(frozen=True)
class EDM(Interpolant):
    """alpha = 1, sigma = s (arXiv 2206.00364, table 1)."""

    name: ClassVar[str] = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def time_range(self) -> tuple[float, float]:
        return self.sigma_min, self.sigma_max

    def coefficients(self, s: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(s), s, torch.zeros_like(s), torch.ones_like(s))

    def from_rectified(self, t: Tensor) -> Tensor:
        return t / (1 - t)


@dataclass(frozen=True)
class VariancePreserving(Interpolant):
    """DDPM's linear betas made continuous: alpha^2 = prod(1 - beta), sigma^2 = 1 - alpha^2.

    Own time s is the step index, 0 .. steps - 1 (arXiv 2006.11239). Between steps, and beyond
    them, log SNR is linear, so that the map to t is monotone, exactly invertible and agrees
    with DDPM at every step.
    """

    name: ClassVar[str] = "vp"
    steps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02

    @property
    def time_range(self) -> tuple[float, float]:
        return 0.0, float(self.steps - 1)

    @cached_property
    def log_snr_grid(self) -> Tensor:
        """log(alpha^2 / sigma^2) of every step, falling, float64 (steps,)."""
        betas = torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)
        log_alpha_sq = torch.log1p(-betas).cumsum(0)
        return log_alpha_sq - torch.log(-torch.expm1(log_alpha_sq))

    def coefficients(self, s: Tensor) -> Coefficients:
        grid = self.log_snr_grid.to(s.device)
        place = s.double()
        low = place.floor().clamp(0, self.steps - 2).long()
        slope = grid[low + 1] - grid[low]
        log_snr = grid[low] + (place - low) * slope
        alpha = torch.sigmoid(log_snr).sqrt()
        sigma = torch.sigmoid(-log_snr).sqrt()
        # d alpha / d log_snr = alpha sigma^2 / 2, and the opposite sign for sigma.
        d_alpha, d_sigma = alpha * sigma**2 * slope / 2, -sigma * alpha**2 * slope / 2
        return Coefficients(*(part.to(s.dtype) for part in (alpha, sigma, d_alpha, d_sigma)))

    def from_rectified(self, t: Tensor) -> Tensor:
        log_snr = 2 * (torch.log1p(-t.double()) - t.double().log())
        falling = self.log_snr_grid.to(t.device)
        high = torch.searchsorted(-falling, -log_snr).clamp(1, self.steps - 1)
        low = high - 1
        place = low + (log_snr - falling[low]) / (falling[high] - falling[low])
        return place.to(t.dtype)


_PUBLISHED: tuple[Interpolant, ...] = (RectifiedFlow(), TrigFlow(), VariancePreserving(), EDM())

INTERPOLANTS = Lookup("interpolant", {path.name: path for path in _PUBLISHED})
"""Name -> interpolant, with its published constants."""
