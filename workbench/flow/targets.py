"""Prediction targets as views of one posterior mean x0_hat = E[x_0 | x] (Tweedie).

With x = alpha x_0 + sigma eps every target is an affine function of x0_hat and x. One line a
target holds that relation; conversions, and the weights that make losses equal, follow from it
(arXiv 2509.25127, the unification).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from workbench.flow.interpolants import Coefficients, Interpolant, expand_like
from workbench.lookup import Lookup


class Relation(NamedTuple):
    """on_prediction * prediction = on_x0 * x0_hat + on_x * x.

    Written without divisions, so that only what is really undefined diverges: a noise
    prediction says nothing of x_0 where alpha = 0, and x_0 nothing of the noise where sigma = 0.
    """

    on_prediction: Tensor
    on_x0: Tensor
    on_x: Tensor


def _x0(c: Coefficients) -> Relation:
    one = torch.ones_like(c.alpha)
    return Relation(one, one, torch.zeros_like(one))


def _eps(c: Coefficients) -> Relation:
    """sigma eps_hat = x - alpha x0_hat."""
    return Relation(c.sigma, -c.alpha, torch.ones_like(c.alpha))


def _score(c: Coefficients) -> Relation:
    """sigma^2 score = alpha x0_hat - x."""
    return Relation(c.sigma.square(), c.alpha, -torch.ones_like(c.alpha))


def _velocity(c: Coefficients) -> Relation:
    """Rectified flow's eps_hat - x0_hat, at the aligned time of any interpolant."""
    return Relation(c.sigma, -(c.alpha + c.sigma), torch.ones_like(c.alpha))


def _v(c: Coefficients) -> Relation:
    """Diffusion's alpha eps_hat - sigma x0_hat (arXiv 2202.00512)."""
    return Relation(c.sigma, -(c.alpha.square() + c.sigma.square()), c.alpha)


def _trigflow(c: Coefficients) -> Relation:
    """cos(s) eps_hat - sin(s) x0_hat, at the aligned angle s of any interpolant."""
    norm = torch.hypot(c.alpha, c.sigma)
    return Relation(c.sigma, -norm, c.alpha / norm)


def _flow(c: Coefficients) -> Relation:
    """d x / d s = d_alpha x0_hat + d_sigma eps_hat, along the interpolant's own time."""
    return Relation(c.sigma, -c.wronskian, c.d_sigma)


TARGETS: Lookup[Callable[[Coefficients], Relation]] = Lookup(
    "prediction target",
    {
        "x0": _x0,
        "eps": _eps,
        "score": _score,
        "velocity": _velocity,
        "v": _v,
        "trigflow": _trigflow,
        "flow": _flow,
    },
)
"""Name -> relation. "flow" is "velocity" on rectified flow, "trigflow" on TrigFlow; "trigflow"
is "v" wherever alpha^2 + sigma^2 = 1."""


def posterior_mean(
    prediction: Tensor, x: Tensor, coefficients: Coefficients, target: str
) -> Tensor:
    """x0_hat = E[x_0 | x] (B, ...) from a prediction of the target at x (B, ...).

    Args:
        coefficients: of the interpolant that made x, each (B,).

    Raises:
        RequestError: unknown target.
    """
    relation = TARGETS[target](coefficients.expand_like(x))
    return (relation.on_prediction * prediction - relation.on_x * x) / relation.on_x0


def prediction_from(x0_hat: Tensor, x: Tensor, coefficients: Coefficients, target: str) -> Tensor:
    """The target's prediction (B, ...) that the posterior mean implies; needs sigma > 0.

    Raises:
        RequestError: unknown target.
    """
    relation = TARGETS[target](coefficients.expand_like(x))
    return (relation.on_x0 * x0_hat + relation.on_x * x) / relation.on_prediction


def convert(
    prediction: Tensor, x: Tensor, coefficients: Coefficients, source: str, target: str
) -> Tensor:
    """A prediction of ``source`` as one of ``target``, at the same x (B, ...) and time.

    Raises:
        RequestError: unknown source or target.
    """
    x0_hat = posterior_mean(prediction, x, coefficients, source)
    return prediction_from(x0_hat, x, coefficients, target)


def loss_weight(coefficients: Coefficients, target: str) -> Tensor:
    """The weight (B,) with ||target error||^2 = weight ||x_0 error||^2, 1 for x0 itself.

    Raises:
        RequestError: unknown target.
    """
    relation = TARGETS[target](coefficients)
    return (relation.on_x0 / relation.on_prediction).square()


def x0_from_velocity(x_t: Tensor, t: Tensor, velocity: Tensor) -> Tensor:
    """x0_hat = x_t - t v (B, ...) on rectified flow, t (B,); defined at both ends of time."""
    return x_t - expand_like(t, x_t) * velocity


def rectified_velocity(
    network: Callable[[Tensor, Tensor], Tensor], interpolant: Interpolant, target: str
) -> Callable[[Tensor, Tensor], Tensor]:
    """A network of any interpolant and target as a rectified-flow velocity (x_t, t) -> v.

    Noise levels beyond the interpolant's ``time_range`` are answered by the network's nearest
    one: a VP or EDM network has never seen pure noise, yet a student starts there.

    Args:
        network: takes its own x_s (B, ...) and own time s (B,), predicts ``target``.

    Raises:
        RequestError: unknown target.
    """
    TARGETS.check(target)

    def velocity(x_t: Tensor, t: Tensor) -> Tensor:
        s = interpolant.from_rectified(t).clamp(*interpolant.time_range)
        x_s = interpolant.from_rectified_x(x_t, s)
        coefficients = interpolant.coefficients(s)
        return convert(network(x_s, s), x_s, coefficients, target, "velocity")

    return velocity
