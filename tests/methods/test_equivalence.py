"""The paper's unification as an experiment: one gradient, however SiD is written.

The generator's loss is written in x_0, eps, velocity, v and the score, on rectified flow, TrigFlow
and VP, with networks that speak each of them, converted from one another. With the weights that
the calculus gives, the generator's gradient is the same (arXiv 2509.25127, section 3).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.helpers import SmallVelocity
from workbench.flow import (
    INTERPOLANTS,
    TARGETS,
    WEIGHTINGS,
    Interpolant,
    expand_like,
    loss_weight,
    prediction_from,
    rectified_velocity,
    x0_from_velocity,
)
from workbench.methods import sid_loss

BATCH, ALPHA = 64, 1.2
Prediction = Callable[[Tensor, Tensor], Tensor]
"""(own x_s (B, 3), own time s (B,)) -> the target's prediction (B, 3)."""


def network(seed: int, dtype: torch.dtype) -> SmallVelocity:
    made = SmallVelocity(seed).to(dtype)
    return made.requires_grad_(False)


def speaks(source: SmallVelocity, path: Interpolant, target: str) -> Prediction:
    """The rectified-flow network as one of another path and target."""

    def predict(x_s: Tensor, s: Tensor) -> Tensor:
        c = path.coefficients(s)
        x_t = path.to_rectified_x(x_s, s)
        x0_hat = x0_from_velocity(x_t, c.t, source.velocity(x_t, c.t, None))
        return prediction_from(x0_hat, x_s, c, target)

    return predict


def written_in(
    x_g: Tensor,
    eps: Tensor,
    t: Tensor,
    path: Interpolant,
    target: str,
    phi: Prediction,
    psi: Prediction,
) -> Tensor:
    """SiD's loss as somebody writes it whose networks speak ``target`` on ``path``.

    sum[(p_phi - p_psi) ((p_phi - p) - a (p_phi - p_psi))] with p the target of x_g itself, and
    1 - t over the target's own weight.
    """
    s = path.from_rectified(t)
    c = path.coefficients(s)
    x_s = path.interpolate(x_g, eps, s)
    p_phi, p_psi, p = phi(x_s, s), psi(x_s, s), prediction_from(x_g, x_s, c, target)
    gap = p_phi - p_psi
    per_sample = (gap * ((p_phi - p) - ALPHA * gap)).sum(1)
    return ((1 - t) / loss_weight(c, target) * per_sample).mean()


def gradient(loss: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    """The gradient of the weights of a generator whose x_g the loss is given."""
    generator = SmallVelocity(7).to(dtype)
    z = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ones = torch.ones(BATCH, dtype=dtype)
    x_g = z.to(dtype) - generator.velocity(z.to(dtype), ones, None)
    parts = torch.autograd.grad(loss(x_g), list(generator.parameters()))
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("target", [name for name in TARGETS if name != "flow"])
@pytest.mark.parametrize("path", ["rectified_flow", "trigflow", "vp"])
def test_one_gradient_however_it_is_written(
    path: str, target: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Against the loss of ``methods.sid_loss``, fed with networks converted back to velocities."""
    seeded = torch.Generator().manual_seed(4)
    eps = torch.randn(BATCH, 3, generator=seeded, dtype=torch.float64).to(dtype)
    # Where all three paths have networks: VP has seen neither pure data nor pure noise.
    t = torch.linspace(0.05, 0.95, BATCH, dtype=torch.float64).to(dtype)
    own = INTERPOLANTS[path]
    phi, psi = (speaks(network(seed, dtype), own, target) for seed in (1, 2))

    def ours(x_g: Tensor) -> Tensor:
        x_t = torch.lerp(x_g, eps, expand_like(t, x_g))
        f_phi, f_psi = (
            x0_from_velocity(x_t, t, rectified_velocity(net, own, target)(x_t, t))
            for net in (phi, psi)
        )
        return sid_loss(x_g, f_phi, f_psi, t, WEIGHTINGS["1-t"], ALPHA)

    def theirs(x_g: Tensor) -> Tensor:
        return written_in(x_g, eps, t, own, target, phi, psi)

    mine, written = gradient(ours, dtype), gradient(theirs, dtype)
    assert float((mine - written).norm() / mine.norm()) < tolerance


@pytest.mark.parametrize("target", ["x0", "eps", "velocity"])
@pytest.mark.parametrize("path", ["trigflow", "vp"])
def test_other_teachers_give_rectified_flow_s_gradient(path: str, target: str) -> None:
    """One teacher known in two languages teaches the same: the conversion itself loses nothing."""
    seeded = torch.Generator().manual_seed(5)
    eps = torch.randn(BATCH, 3, generator=seeded, dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, BATCH, dtype=torch.float64)
    networks = [network(seed, torch.float64) for seed in (1, 2)]
    own = INTERPOLANTS[path]

    def plain(x_g: Tensor) -> Tensor:
        x_t = torch.lerp(x_g, eps, expand_like(t, x_g))
        f_phi, f_psi = (x0_from_velocity(x_t, t, net.velocity(x_t, t, None)) for net in networks)
        return sid_loss(x_g, f_phi, f_psi, t, WEIGHTINGS["1-t"], ALPHA)

    def converted(x_g: Tensor) -> Tensor:
        phi, psi = (speaks(net, own, target) for net in networks)
        return written_in(x_g, eps, t, own, target, phi, psi)

    mine, theirs = gradient(plain, torch.float64), gradient(converted, torch.float64)
    assert float((mine - theirs).norm() / mine.norm()) < 1e-9


def test_without_the_weights_the_gradients_differ() -> None:
    """What the paper's heuristics choose between is the weight in t, and that does matter."""
    eps = torch.randn(BATCH, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    t = torch.linspace(0.05, 0.95, BATCH, dtype=torch.float64)
    path = INTERPOLANTS["rectified_flow"]

    def unweighted(target: str) -> Callable[[Tensor], Tensor]:
        phi, psi = (speaks(network(seed, torch.float64), path, target) for seed in (1, 2))

        def loss(x_g: Tensor) -> Tensor:
            c, x_t = path.coefficients(t), torch.lerp(x_g, eps, expand_like(t, x_g))
            gap = phi(x_t, t) - psi(x_t, t)
            error = phi(x_t, t) - prediction_from(x_g, x_t, c, target)
            return (gap * (error - ALPHA * gap)).sum(1).mean()

        return loss

    x0, eps_ = (gradient(unweighted(target), torch.float64) for target in ("x0", "eps"))
    cosine = torch.nn.functional.cosine_similarity(x0, eps_, dim=0)
    assert cosine < 0.95
