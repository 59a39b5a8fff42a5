"""A mixture of Gaussians in latent space, whose rectified-flow velocity has a closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from workbench.flow.noise import NoiseSource
from workbench.teachers.base import Conditioning, VelocityNetwork

LOG_SHARES = "log_shares"
"""The conditioning's tensor: logarithms of the modes' shares that a prompt asks for (B, K)."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """K Gaussians with the axes as their own; one alone is a Gaussian.

    Attributes:
        means: float64 (K, D).
        std: of each mode along each axis: a number, or float64 that broadcasts to (K, D).
        shares: of the modes, float64 (K,), summing to 1.
    """

    means: Tensor
    std: float | Tensor
    shares: Tensor

    @classmethod
    def ring(cls, modes: int, radius: float, std: float) -> Self:
        """Modes of equal shares, equally spaced on a circle in the plane."""
        angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
        means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return cls(means, std, torch.full((modes,), 1 / modes, dtype=torch.float64))

    @property
    def modes(self) -> int:
        return len(self.means)

    @property
    def dimension(self) -> int:
        return self.means.shape[1]

    @property
    def stds(self) -> Tensor:
        """Of each mode along each axis, float64 (K, D)."""
        return torch.as_tensor(self.std, dtype=torch.float64).expand(self.means.shape)

    def marginal(self, axes: Sequence[int]) -> Self:
        """The distribution of these coordinates alone."""
        chosen = list(axes)
        return replace(self, means=self.means[:, chosen], std=self.stds[:, chosen])

    def asking(self, labels: Tensor) -> Tensor:
        """Logarithms of shares (B, K) that put everything on the modes ``labels`` (B,)."""
        hot = nn.functional.one_hot(labels, self.modes).double()
        return hot.log()

    def velocity(self, x_t: Tensor, t: Tensor, log_shares: Tensor | None = None) -> Tensor:
        """E[eps - x_0 | x_t], float64 (B, D), for x_t = (1 - t) x_0 + t eps.

        Mode k makes x_t Gaussian with mean m = (1 - t) mu_k and, along each axis, variance
        s_t^2 = (1 - t)^2 std^2 + t^2. Given k, E[eps | x_t] = t (x_t - m) / s_t^2 and
        E[x_0 | x_t] = mu_k + (1 - t) std^2 (x_t - m) / s_t^2 (Gaussian conditioning); the modes'
        posterior is a softmax of log densities, so that nothing underflows far from every mode.

        Args:
            x_t: (B, D).
            t: (B,) in [0, 1].
            log_shares: the modes' shares (B, K), other than the mixture's own.
        """
        x, time = x_t.double()[:, None], t.double()[:, None, None]
        means, own = self.means.to(x.device), self.stds.to(x.device).square()
        variance = (1 - time) ** 2 * own + time**2
        away = x - (1 - time) * means
        prior = self.shares.log().to(x.device) if log_shares is None else log_shares.double()
        posterior = torch.softmax(prior + _log_density(away, variance), dim=1)
        slope = (time - (1 - time) * own) / variance
        return (posterior[..., None] * (slope * away - means)).sum(1)

    def sample(self, noise: NoiseSource, stream: str, start: int, count: int) -> Tensor:
        """The samples ``start .. start + count`` of a stream, float32 (count, D)."""
        labels = self.labels(noise.uniform(f"{stream}/mode", start, count))
        normal = noise.normal(f"{stream}/inside", start, count, (self.dimension,))
        return self.at(labels, normal)

    def labels(self, uniform: Tensor) -> Tensor:
        """Modes in the mixture's shares from uniforms in (0, 1), int64, of the same shape."""
        edges = self.shares.cumsum(0)[:-1].contiguous()
        return torch.searchsorted(edges.to(uniform.device), uniform.double().contiguous())

    def at(self, labels: Tensor, normal: Tensor) -> Tensor:
        """Samples of given modes (B,) from standard normal noise (B, D), float32."""
        return (self.means[labels] + self.stds[labels] * normal.double()).float()

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest mode of points (N, D), int64 (N,), and how far it is, float64 (N,).

        Of modes of one width and equal shares it is the nearest one. The distance is in the mode's
        own std along each axis.
        """
        away, own = points.double()[:, None] - self.means, self.stds.square()
        label = (self.shares.log() + _log_density(away, own)).argmax(dim=1)
        distances = (away.square() / own).sum(2).sqrt()
        return label, distances.gather(1, label[:, None])[:, 0]


def _log_density(away: Tensor, variance: Tensor) -> Tensor:
    """Of modes whose means are ``away`` (N, K, D), with a constant left out (N, K)."""
    return -(away.square() / variance + variance.log()).sum(-1) / 2


class ExactVelocity(VelocityNetwork):
    """The closed form as a network: without weights, float64 inside at any precision of a run."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__(nn.Identity())
        self.mixture = mixture

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        return self.mixture.velocity(x_t, t, None if cond is None else cond[LOG_SHARES])


class _Block(nn.Module):
    """x + W_2 silu(W_1 norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.out(nn.functional.silu(self.into(self.norm(hidden))))
        return out


class ResidualMLP(nn.Module):
    """(x_t, t, waves of both, shares asked for) to a velocity, by residual blocks.

    Without waves of x_t it takes a ring of modes for a ring (measured; spectral bias, Tancik et al.
    2020).

    The output layer is called as those of diffusers' transformers are: discriminators read its
    input.
    """

    def __init__(self, dimension: int, modes: int, width: int, blocks: int) -> None:
        super().__init__()
        self.frequencies = tuple(math.pi * 2.0**power for power in range(-1, 4))
        self.wave_numbers = (1.0, 2.0, 4.0)
        waves = len(self.frequencies) + dimension * len(self.wave_numbers)
        inputs = dimension + 1 + 2 * waves + modes
        self.proj_in = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, dimension)

    def forward(self, x_t: Tensor, t: Tensor, shares: Tensor | None) -> Tensor:
        places = (x_t[:, :, None] * t.new_tensor(self.wave_numbers)).flatten(1)
        waves = torch.cat([t[:, None] * t.new_tensor(self.frequencies), places], dim=1)
        parts = [x_t, t[:, None], waves.sin(), waves.cos(), *([] if shares is None else [shares])]
        hidden = self.proj_in(torch.cat(parts, dim=1).to(x_t.dtype))
        for block in self.blocks:
            hidden = block(hidden)
        velocity: Tensor = self.proj_out(self.norm_out(hidden))
        return velocity


class MLPVelocity(VelocityNetwork):
    """A small trainable velocity network; one of 0 modes takes no notice of prompts."""

    def __init__(self, dimension: int, modes: int, width: int, blocks: int) -> None:
        super().__init__(ResidualMLP(dimension, modes, width, blocks))
        self.prompted = modes > 0

    def predict(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        dtype = self.weights_dtype
        asked = cond[LOG_SHARES].exp().to(dtype) if self.prompted and cond is not None else None
        velocity: Tensor = self.module(x_t.to(dtype), t, asked)
        return velocity
