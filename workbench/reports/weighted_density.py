"""Weighted densities of t: w(t) p(t), normalized (arXiv 2509.25127, figure 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.errors import RequestError
from workbench.flow.densities import TimeDensity
from workbench.flow.weightings import TimeWeighting

Array = NDArray[np.float64]

LEFT_OUT = 1e-9
"""Probability of the density beyond a cut."""

_NODES = 1 << 19
_LOGITS = (-300.0, 36.0)  # t from 5e-131, where 1 / t^2 is still a float, to 1 - 2e-16


@dataclass(frozen=True)
class WeightedDensity:
    """w(t) p(t), normalized, on the density's support between the cuts, if it needs any."""

    density: TimeDensity
    weighting: TimeWeighting
    lower: float = 0.0
    upper: float = 1.0

    @property
    def is_cut(self) -> bool:
        return (self.lower, self.upper) != (0.0, 1.0)

    @cached_property
    def kept(self) -> TimeDensity:
        return self.density.truncated(self.lower, self.upper)

    @cached_property
    def _cumulative(self) -> tuple[Array, Array]:
        """Times (N,) and the integral of w dF up to each, F the density's distribution function.

        A Stieltjes sum: the density's share of each interval is exact, and w varies by 0.1 % in
        one, which leaves a relative error of 1e-7. It asks nothing of the density's smoothness.
        """
        ends = torch.tensor(self.kept.support, dtype=torch.float64).logit().clamp(*_LOGITS)
        logits = torch.linspace(ends[0].item(), ends[1].item(), _NODES, dtype=torch.float64)
        shares = self.kept.cdf(torch.sigmoid(logits)).diff()
        middles = torch.sigmoid((logits[1:] + logits[:-1]) / 2)
        parts = _weigh(self.weighting, middles) * shares
        total = torch.cat((torch.zeros(1, dtype=torch.float64), parts.cumsum(0)))
        return torch.sigmoid(logits).numpy(), total.numpy()

    @cached_property
    def normalizer(self) -> float:
        """The mean of w over the density.

        Raises:
            RequestError: w is zero all over the density.
        """
        total = float(self._cumulative[1][-1])
        if not 0 < total < math.inf:
            raise RequestError(f"{self.weighting.name} over {self.density.name} sums to {total}.")
        return total

    def pdf(self, t: Array) -> Array:
        times = torch.as_tensor(t, dtype=torch.float64)
        values = _product(self.kept, self.weighting, times) / self.normalizer
        return np.asarray(values)

    def cdf(self, t: Array) -> Array:
        times, total = self._cumulative
        return np.interp(t, times, total / self.normalizer)

    def quantile(self, probability: float) -> float:
        times, total = self._cumulative
        return float(np.interp(probability, total / self.normalizer, times))

    def sample(self, n: int, seed: int) -> tuple[Array, Array]:
        """Times (n,) and their weights (n,), which sum to 1: the density's samples, times w.

        Times are quantiles of v^4, v uniform and stratified, with weights 4 v^3 w(t): plain
        samples would leave a single one with most of the weight where w is largest.
        """
        chance = torch.Generator().manual_seed(seed)
        v = torch.rand(n, dtype=torch.float64, generator=chance).clamp(min=2.0**-54)
        v = (torch.arange(n) + v) / n
        t = self.kept.quantile(v**4)
        weights = 4 * v**3 * _weigh(self.weighting, t)
        return t.numpy(), (weights / weights.sum()).numpy()


def _weigh(weighting: TimeWeighting, t: Tensor) -> Tensor:
    weights = weighting.of_t(t)
    if not bool((weights >= 0).all()):
        raise RequestError(f"The weighting {weighting.name} is negative or undefined on (0, 1).")
    return weights


def _product(density: TimeDensity, weighting: TimeWeighting, t: Tensor) -> Tensor:
    return torch.where(density.pdf(t) > 0, _weigh(weighting, t) * density.pdf(t), 0.0)


def weighted_density(density: TimeDensity, weighting: TimeWeighting) -> WeightedDensity:
    """The product, cut where w(t) p(t) has no integral.

    Raises:
        RequestError: negative weights.
    """
    low, high = density.support

    def near(end: float, sign: int) -> Callable[[float], float]:
        def value(distance: float) -> float:
            t = torch.tensor([end + sign * distance], dtype=torch.float64)
            return float(_product(density, weighting, t))

        return value

    cut_below = low == 0 and _diverges(near(0.0, +1), 1e-30, 1e-60)
    cut_above = high == 1 and _diverges(near(1.0, -1), 1e-6, 1e-12)
    ends = density.quantile(torch.tensor([LEFT_OUT, 1 - LEFT_OUT], dtype=torch.float64))
    return WeightedDensity(
        density,
        weighting,
        lower=ends[0].item() if cut_below else 0.0,
        upper=ends[1].item() if cut_above else 1.0,
    )


def _diverges(value: Callable[[float], float], far: float, close: float) -> bool:
    """Whether a function of the distance from an end grows at least like 1 / distance there."""
    at_far, at_close = value(far), value(close)
    if not (at_far > 0 and at_close > 0):
        return False
    return math.log(at_close / at_far) >= 0.999 * math.log(far / close)
