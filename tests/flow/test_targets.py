"""Targets on Gaussian data, whose posterior mean is known in closed form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from workbench.errors import RequestError
from workbench.flow import (
    INTERPOLANTS,
    TARGETS,
    Coefficients,
    convert,
    loss_weight,
    posterior_mean,
    prediction_from,
    rectified_velocity,
    x0_from_velocity,
)

NAMES = sorted(INTERPOLANTS)
MEAN, STD = 0.7, 0.4

# The targets by their definitions, from (c, x0, eps): a second computation of every relation.
DEFINITIONS: dict[str, Callable[[Coefficients, Tensor, Tensor], Tensor]] = {
    "x0": lambda c, x0, eps: x0,
    "eps": lambda c, x0, eps: eps,
    "score": lambda c, x0, eps: -eps / c.sigma,
    "velocity": lambda c, x0, eps: eps - x0,
    "v": lambda c, x0, eps: c.alpha * eps - c.sigma * x0,
    "trigflow": lambda c, x0, eps: (
        torch.atan2(c.sigma, c.alpha).cos() * eps - torch.atan2(c.sigma, c.alpha).sin() * x0
    ),
    "flow": lambda c, x0, eps: c.d_alpha * x0 + c.d_sigma * eps,
}


def gaussian_posterior_mean(x: Tensor, c: Coefficients) -> Tensor:
    """E[x_0 | x] for x_0 ~ N(MEAN, STD^2), by conditioning the joint Gaussian of x_0 and x."""
    gain = c.alpha * STD**2 / (c.alpha**2 * STD**2 + c.sigma**2)
    return MEAN + gain * (x - c.alpha * MEAN)


def problem(name: str) -> tuple[Tensor, Coefficients, Coefficients]:
    """x (B, 2, 3) of Gaussian data, and coefficients of shape (B,) and (B, 1, 1), float64."""
    torch.manual_seed(0)
    path = INTERPOLANTS[name]
    s = path.from_rectified(torch.linspace(0.02, 0.98, 25, dtype=torch.float64))
    x0 = MEAN + STD * torch.randn(25, 2, 3, dtype=torch.float64)
    x = path.interpolate(x0, torch.randn_like(x0), s)
    c = path.coefficients(s)
    return x, c, c.expand_like(x)


def test_every_target_has_a_definition_here() -> None:
    assert set(DEFINITIONS) == set(TARGETS)


@pytest.mark.parametrize("target", DEFINITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_target_gives_the_exact_posterior_mean(name: str, target: str) -> None:
    x, c, wide = problem(name)
    exact = gaussian_posterior_mean(x, wide)
    prediction = DEFINITIONS[target](wide, exact, (x - wide.alpha * exact) / wide.sigma)
    torch.testing.assert_close(
        posterior_mean(prediction, x, c, target), exact, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        prediction_from(exact, x, c, target), prediction, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("source", DEFINITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_conversions_return(name: str, source: str) -> None:
    x, c, _ = problem(name)
    prediction = torch.randn_like(x)
    for target in TARGETS:
        there = convert(prediction, x, c, source, target)
        back = convert(there, x, c, target, source)
        torch.testing.assert_close(back, prediction, rtol=1e-8, atol=1e-8)


def test_score_is_the_gradient_of_the_log_density() -> None:
    for name in NAMES:
        x, c, wide = problem(name)
        x.requires_grad_()
        variance = wide.alpha**2 * STD**2 + wide.sigma**2
        log_density = -((x - wide.alpha * MEAN) ** 2) / (2 * variance)
        (score,) = torch.autograd.grad(log_density.sum(), x)
        x0_hat = gaussian_posterior_mean(x.detach(), wide)
        found = prediction_from(x0_hat, x.detach(), c, "score")
        torch.testing.assert_close(found, score, rtol=1e-7, atol=1e-9)


def test_flow_is_velocity_on_rectified_flow_and_trigflow_on_trigflow() -> None:
    for name, target in (("rectified_flow", "velocity"), ("trigflow", "trigflow")):
        x, c, _ = problem(name)
        prediction = torch.randn_like(x)
        torch.testing.assert_close(
            posterior_mean(prediction, x, c, "flow"), posterior_mean(prediction, x, c, target)
        )


def test_trigflow_is_v_on_variance_preserving_paths() -> None:
    x, c, _ = problem("vp")
    prediction = torch.randn_like(x)
    torch.testing.assert_close(
        posterior_mean(prediction, x, c, "trigflow"), posterior_mean(prediction, x, c, "v")
    )


@pytest.mark.parametrize("target", ["x0", "velocity", "v", "trigflow", "flow"])
def test_the_ends_of_time_are_finite(target: str) -> None:
    for name in ("rectified_flow", "trigflow"):
        path = INTERPOLANTS[name]
        x = torch.randn(2, 5)
        s = torch.tensor(path.time_range, dtype=torch.float32)
        x0_hat = posterior_mean(torch.randn(2, 5), x, path.coefficients(s), target)
        assert x0_hat.isfinite().all()
        if target != "x0":
            torch.testing.assert_close(x0_hat[0], x[0])  # at the data end x is x_0


@pytest.mark.parametrize("target", DEFINITIONS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_losses_differ_only_by_their_weight(
    name: str, target: str, dtype: torch.dtype, rtol: float
) -> None:
    """The same gradient of ||target error||^2 and of weight * ||x_0 error||^2."""
    torch.manual_seed(1)
    path = INTERPOLANTS[name]
    s = path.from_rectified(torch.linspace(0.1, 0.9, 16, dtype=dtype))
    c = path.coefficients(s)
    x0, eps = torch.randn(2, 16, 6, dtype=dtype).unbind(0)
    x = path.interpolate(x0, eps, s)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)).to(dtype)

    def gradients(loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, network.parameters())])

    prediction = network(x)
    truth = DEFINITIONS[target](c.expand_like(x), x0, eps)
    of_target = gradients((prediction - truth).square().sum())
    x0_error = (posterior_mean(network(x), x, c, target) - x0).square().sum(1)
    of_x0 = gradients((loss_weight(c, target) * x0_error).sum())
    torch.testing.assert_close(
        of_x0, of_target, rtol=rtol, atol=rtol * of_target.abs().max().item()
    )


def test_x0_from_velocity_is_the_rectified_posterior_mean() -> None:
    x, c, _ = problem("rectified_flow")
    velocity = torch.randn_like(x)
    torch.testing.assert_close(
        x0_from_velocity(x, c.sigma, velocity), posterior_mean(velocity, x, c, "velocity")
    )


@pytest.mark.parametrize("target", DEFINITIONS)
@pytest.mark.parametrize("name", NAMES)
def test_any_network_becomes_a_rectified_velocity(name: str, target: str) -> None:
    """The optimal network of every kind is one and the same rectified velocity."""
    path = INTERPOLANTS[name]

    def network(x: Tensor, s: Tensor) -> Tensor:
        c = path.coefficients(s)
        return prediction_from(gaussian_posterior_mean(x, c.expand_like(x)), x, c, target)

    t = torch.linspace(0.02, 0.98, 9, dtype=torch.float64)
    x_t = torch.randn(9, 4, dtype=torch.float64)
    rectified = INTERPOLANTS["rectified_flow"].coefficients(t)
    x0_hat = gaussian_posterior_mean(x_t, rectified.expand_like(x_t))
    exact = (x_t - x0_hat) / t[:, None]
    found = rectified_velocity(network, path, target)(x_t, t)
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapped_network_answers_pure_noise_at_a_time_it_knows(name: str) -> None:
    path = INTERPOLANTS[name]
    seen: list[Tensor] = []

    def network(x: Tensor, s: Tensor) -> Tensor:
        seen.append(s)
        c = path.coefficients(s)
        return prediction_from(gaussian_posterior_mean(x, c.expand_like(x)), x, c, "velocity")

    x_t = torch.randn(3, 4, dtype=torch.float64)
    found = rectified_velocity(network, path, "velocity")(x_t, torch.ones(3, dtype=torch.float64))
    low, high = path.time_range
    assert ((seen[0] >= low) & (seen[0] <= high)).all()
    # At t = 1 the exact velocity is x_t - E[x_0]; VP ends at t = 0.994, EDM at 0.988.
    torch.testing.assert_close(found, x_t - MEAN, rtol=0.03, atol=0.03)


def test_unknown_target_names_the_nearest() -> None:
    x, c, _ = problem("edm")
    with pytest.raises(RequestError, match="Did you mean 'velocity'"):
        posterior_mean(x, x, c, "velocty")
    with pytest.raises(RequestError, match="Unknown prediction target 'noise'"):
        rectified_velocity(lambda x, s: x, INTERPOLANTS["edm"], "noise")
