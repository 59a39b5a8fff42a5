"""Densities of t on (0, 1): where training looks (arXiv 2509.25127, figure 2).

Every density has a distribution function and its inverse in closed form. Sampling is the
inverse at uniform numbers, and a restriction to a range is therefore a true truncation.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow.interpolants import EDM, Interpolant, VariancePreserving
from workbench.flow.shift import shift_time
from workbench.lookup import Lookup

_LEAST_MASS = 1e-9
"""Below this probability float64 cannot resolve a truncated range's upper tail well."""


class TimeDensity(ABC):
    """A distribution of t on an interval inside [0, 1].

    A new one implements :meth:`_pdf`, :meth:`_cdf` and :meth:`_quantile`, which are only ever
    called strictly inside :attr:`support`. Tensors of any float dtype and shape go in, float64
    of the same shape comes out.
    """

    name: str
    support: tuple[float, float] = (0.0, 1.0)

    @abstractmethod
    def _pdf(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _cdf(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _quantile(self, u: Tensor) -> Tensor: ...

    def pdf(self, t: Tensor) -> Tensor:
        """Density at t; zero outside the support."""
        inside, t = self._inside(t)
        return torch.where(inside, self._pdf(t), 0.0)

    def cdf(self, t: Tensor) -> Tensor:
        """Probability of a time at most t."""
        inside, interior = self._inside(t)
        beyond = (t.double() >= self.support[1]).double()
        return torch.where(inside, self._cdf(interior), beyond)

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of :meth:`cdf`; 0 and 1 give the ends of the support.

        At uniform numbers u it is inverse-transform sampling.
        """
        low, high = self.support
        u = u.double()
        t = self._quantile(u.clamp(2.0**-64, 1 - 2.0**-53))
        # Only rounding can leave the support inside (0, 1); nothing is moved onto its ends.
        t = t.clamp(low, high)
        return torch.where(u <= 0, low, torch.where(u >= 1, high, t))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent times, float64 (n,)."""
        u = torch.rand(n, dtype=torch.float64, generator=generator)
        return self.quantile(u.clamp(min=2.0**-54))  # torch.rand may return 0, never 1

    def truncated(self, low: float, high: float) -> TimeDensity:
        """This density restricted to [low, high] and renormalized.

        Raises:
            RequestError: reversed, outside [0, 1], or without probability.
        """
        if not 0 <= low < high <= 1:
            raise RequestError(
                f"t_range must satisfy 0 <= low < high <= 1, not ({low:g}, {high:g})."
            )
        return self if (low, high) == (0.0, 1.0) else Truncated(self, low, high)

    def _inside(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Where t lies inside the support, and t with an interior point elsewhere."""
        low, high = self.support
        t = t.double()
        inside = (t > low) & (t < high)
        return inside, torch.where(inside, t, (low + high) / 2)


class Truncated(TimeDensity):
    """A density restricted to [low, high] and renormalized.

    Raises:
        RequestError: the whole density has no probability there.
    """

    def __init__(self, whole: TimeDensity, low: float, high: float) -> None:
        self.whole = whole
        self.name = f"{whole.name}[{low:g},{high:g}]"
        ends = whole.cdf(torch.tensor([low, high], dtype=torch.float64))
        self.below, self.mass = ends[0].item(), (ends[1] - ends[0]).item()
        if self.mass < _LEAST_MASS:
            raise RequestError(
                f"Density {whole.name!r} has no probability in t_range ({low:g}, {high:g}); "
                f"it lives on ({whole.support[0]:.4g}, {whole.support[1]:.4g})."
            )
        self.support = max(low, whole.support[0]), min(high, whole.support[1])

    def _pdf(self, t: Tensor) -> Tensor:
        return self.whole.pdf(t) / self.mass

    def _cdf(self, t: Tensor) -> Tensor:
        return (self.whole.cdf(t) - self.below) / self.mass

    def _quantile(self, u: Tensor) -> Tensor:
        return self.whole.quantile(self.below + u * self.mass)


class LogitNormal(TimeDensity):
    """t = sigmoid(N(mean, std^2)): a log-normal EDM sigma, with t = sigma / (1 + sigma)."""

    def __init__(self, name: str, mean: float, std: float) -> None:
        self.name, self.mean, self.std = name, mean, std

    def _z(self, t: Tensor) -> Tensor:
        return (torch.logit(t) - self.mean) / self.std

    def _pdf(self, t: Tensor) -> Tensor:
        jacobian = self.std * t * (1 - t)
        return torch.exp(-self._z(t).square() / 2) / (math.sqrt(2 * math.pi) * jacobian)

    def _cdf(self, t: Tensor) -> Tensor:
        probability: Tensor = torch.special.ndtr(self._z(t))
        return probability

    def _quantile(self, u: Tensor) -> Tensor:
        z: Tensor = torch.special.ndtri(u)
        return torch.sigmoid(self.mean + self.std * z)


class Histogram(TimeDensity):
    """Probabilities of cells between increasing edges, each spread evenly over its cell.

    The continuous stand-in of a distribution over grid steps: the distribution functions differ
    by less than one cell's probability, and every range can be cut out exactly.
    """

    def __init__(self, name: str, edges: Tensor, probabilities: Tensor) -> None:
        self.name, self.edges = name, edges.double()
        self.probabilities = probabilities.double() / probabilities.sum()
        self.cumulative = torch.cat((torch.zeros(1).double(), self.probabilities.cumsum(0)))
        self.support = edges[0].item(), edges[-1].item()

    def _cell(self, place: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each place between the edges, and the fraction of the cell below it."""
        edges = edges.to(place.device)
        cell = (torch.searchsorted(edges, place, right=True) - 1).clamp(0, len(edges) - 2)
        return cell, (place - edges[cell]) / (edges[cell + 1] - edges[cell])

    def _pdf(self, t: Tensor) -> Tensor:
        cell, _ = self._cell(t, self.edges)
        return (self.probabilities / self.edges.diff()).to(t.device)[cell]

    def _cdf(self, t: Tensor) -> Tensor:
        cell, part = self._cell(t, self.edges)
        return torch.lerp(
            self.cumulative.to(t.device)[cell], self.cumulative.to(t.device)[cell + 1], part
        )

    def _quantile(self, u: Tensor) -> Tensor:
        cell, part = self._cell(u, self.cumulative)
        return torch.lerp(self.edges.to(u.device)[cell], self.edges.to(u.device)[cell + 1], part)


class UniformOwnTime(TimeDensity):
    """s uniform over an interpolant's own time range, t the aligned rectified-flow time.

    For VP this is DDPM's uniform choice of a step, with the step index made continuous.
    """

    def __init__(self, name: str, interpolant: Interpolant) -> None:
        self.name, self.interpolant = name, interpolant
        self.first, last = interpolant.time_range
        self.length = last - self.first
        ends = interpolant.to_rectified(torch.tensor([self.first, last], dtype=torch.float64))
        self.support = ends[0].item(), ends[1].item()

    def _pdf(self, t: Tensor) -> Tensor:
        s = self.interpolant.from_rectified(t)
        return 1 / (self.interpolant.coefficients(s).d_t * self.length)

    def _cdf(self, t: Tensor) -> Tensor:
        return (self.interpolant.from_rectified(t) - self.first) / self.length

    def _quantile(self, u: Tensor) -> Tensor:
        return self.interpolant.to_rectified(self.first + u * self.length)


class KarrasSteps(TimeDensity):
    """sigma = (a + u (b - a))^rho, u uniform on (0, u_max); t = sigma / (1 + sigma).

    a and b are the rho-th roots of sigma_min and sigma_max: EDM's sampling schedule
    (arXiv 2206.00364, eq. 5) with its order reversed, as SiD used it (arXiv 2404.04057).
    """

    def __init__(self, name: str, u_max: float, rho: float, path: EDM) -> None:
        self.name, self.rho = name, rho
        self.root: float = path.sigma_min ** (1 / rho)
        self.span: float = u_max * (path.sigma_max ** (1 / rho) - self.root)
        ends = self._quantile(torch.tensor([0.0, 1.0], dtype=torch.float64))
        self.support = ends[0].item(), ends[1].item()

    def _pdf(self, t: Tensor) -> Tensor:
        sigma = t / (1 - t)
        d_u = sigma ** (1 / self.rho - 1) / (self.rho * self.span)
        return d_u / (1 - t).square()

    def _cdf(self, t: Tensor) -> Tensor:
        return ((t / (1 - t)) ** (1 / self.rho) - self.root) / self.span

    def _quantile(self, u: Tensor) -> Tensor:
        sigma = (self.root + u * self.span) ** self.rho
        return sigma / (1 + sigma)


def _trigflow(name: str, prior_mean: float, prior_std: float, sigma_data: float) -> LogitNormal:
    """tan s = e^tau / sigma_data, tau ~ N(mean, std^2); logit t = log tan s."""
    return LogitNormal(name, prior_mean - math.log(sigma_data), prior_std)


def _sana(steps: int, shift: float) -> Histogram:
    """u = sigmoid(N(0, 1)) on a grid of steps, flow-shifted."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return Histogram("sana", shift_time(u, shift), LogitNormal("", 0.0, 1.0).cdf(u).diff())


_PUBLISHED: tuple[TimeDensity, ...] = (
    _trigflow("sid", prior_mean=0.0, prior_std=1.6, sigma_data=0.5),
    _trigflow("trigflow", prior_mean=-1.0, prior_std=1.4, sigma_data=0.5),
    _sana(steps=1000, shift=3.0),
    UniformOwnTime("ddpm", VariancePreserving()),
    LogitNormal("edm_train", mean=-1.2, std=1.2),
    KarrasSteps("edm_sid", u_max=0.8, rho=7.0, path=EDM()),
)

DENSITIES = Lookup("density of t", {density.name: density for density in _PUBLISHED})
"""Every known density by name; :func:`register_density` adds to it."""


def register_density(density: TimeDensity) -> None:
    """Make a density known by its name, to configurations and to plots.

    Raises:
        RequestError: the name is taken.
    """
    DENSITIES.register(density.name, density)


def get_density(name: str, t_range: tuple[float, float] = (0.0, 1.0)) -> TimeDensity:
    """A density by name, truncated to a range.

    Raises:
        RequestError: unknown name; a range reversed, outside [0, 1] or without probability.
    """
    return DENSITIES[name].truncated(*t_range)
