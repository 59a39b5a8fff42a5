from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import EMPTY, ExactOwnVelocity, SmallVelocity, labels
from workbench.flow import WEIGHTINGS, NoiseSource
from workbench.methods import (
    Batch,
    GeneratorConfig,
    GuidanceConfig,
    Networks,
    SiD,
    SiDConfig,
    fake_score_loss,
    sid_loss,
)

COUNT = 5
WEIGHT_FORMULAS = {
    "1": lambda t: np.ones_like(t),
    "1-t": lambda t: 1 - t,
    "(1-t)^2": lambda t: (1 - t) ** 2,
    "1/t": lambda t: 1 / t,
    "1/t^2": lambda t: t**-2.0,
    "(1-t)/t": lambda t: (1 - t) / t,
    "(1-t)^2/t^2": lambda t: (1 - t) ** 2 / t**2,
}


def exact_networks(double: bool = True) -> Networks:
    def network(seed: int) -> ExactOwnVelocity:
        wrapped = ExactOwnVelocity(SmallVelocity(seed))
        return wrapped.double() if double else wrapped

    return Networks(network(1), {"fake_score": network(2), "generator": network(3)}, EMPTY)


def batch(evaluations: int = 3) -> Batch:
    return Batch(40, COUNT, labels(COUNT), evaluations, NoiseSource(9), (3,), torch.device("cpu"))


class DoubleBatch(Batch):
    def normal(self, stream: str) -> Tensor:
        return super().normal(stream).double()


def double_batch(evaluations: int) -> Batch:
    b = batch(evaluations)
    return DoubleBatch(b.start, b.count, b.cond, b.evaluations, b.noise, b.latent_shape, b.device)


def numpy_velocity(network: ExactOwnVelocity, x: np.ndarray, t: np.ndarray, c: np.ndarray):
    p = {k: v.detach().numpy() for k, v in network.module.named_parameters()}
    return np.tanh(np.c_[x, t, c] @ p["first"] + p["bias"]) @ p["second"]


def numpy_guided(network, x, t, c, scale):
    cond = numpy_velocity(network, x, t, c)
    uncond = numpy_velocity(network, x, t, np.zeros_like(t))
    return uncond + scale * (cond - uncond)


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("sid_alpha", [1.0, 1.2, 0.5])
def test_generator_loss_is_the_formula(weighting: str, sid_alpha: float) -> None:
    rng = np.random.default_rng(0)
    x_g, f_phi, f_psi = rng.normal(size=(3, COUNT, 2, 3))
    t = rng.uniform(0.05, 0.95, COUNT)
    if weighting == "sid":
        w = 1 / np.abs(x_g - f_phi).mean(axis=(1, 2))
    else:
        w = WEIGHT_FORMULAS[weighting](t)
    expected = np.mean(
        [
            w[i]
            * np.sum(
                (f_phi[i] - f_psi[i]) * ((f_phi[i] - x_g[i]) - sid_alpha * (f_phi[i] - f_psi[i]))
            )
            for i in range(COUNT)
        ]
    )
    tensors = [torch.from_numpy(array) for array in (x_g, f_phi, f_psi, t)]
    ours = sid_loss(*tensors, WEIGHTINGS[weighting], sid_alpha)
    np.testing.assert_allclose(ours.item(), expected, rtol=1e-12)


def test_fake_score_loss_is_the_formula() -> None:
    x_g, eps, v = torch.randn(3, COUNT, 2, 3, dtype=torch.float64)
    expected = sum(((eps[i] - x_g[i] - v[i]) ** 2).sum() for i in range(COUNT)) / COUNT
    torch.testing.assert_close(fake_score_loss(x_g, eps, v), expected)


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (4.5, 4.5, 4.5), (1.0, 0.0, 1.0)])
@pytest.mark.parametrize("evaluations", [1, 3])
def test_phases_against_an_independent_computation(scales, evaluations: int) -> None:
    """Both phases in numpy from the definitions; only the noise addresses are shared."""
    guidance = GuidanceConfig(train_fake=scales[0], eval_fake=scales[1], eval_teacher=scales[2])
    method = SiD(SiDConfig(guidance=guidance, sid_alpha=1.1), GeneratorConfig())
    networks, b = exact_networks(), double_batch(evaluations)
    c = b.cond["label"].numpy().astype(float)

    def generated(stream: str) -> np.ndarray:
        x0 = np.zeros((COUNT, 3))
        for i in range(evaluations):
            t = np.full(COUNT, 1 - i / 4)
            x = (1 - t[:, None]) * x0 + t[:, None] * b.normal(f"{stream}/step{i}").numpy()
            x0 = x - t[:, None] * numpy_velocity(networks.generator, x, t, c)
        return x0

    def diffused(stream: str, x_g: np.ndarray):
        t = method.density.quantile(b.uniform(f"{stream}/t")).numpy()
        eps = b.normal(f"{stream}/eps").numpy()
        return (1 - t[:, None]) * x_g + t[:, None] * eps, t, eps

    x_g = generated("fake_score")
    x_t, t, eps = diffused("fake_score", x_g)
    v = numpy_guided(networks.fake_score, x_t, t, c, scales[0])
    expected = np.mean(np.sum((eps - x_g - v) ** 2, axis=1))
    ours = method.fake_score_phase(networks, b).value.item()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)

    x_g = generated("generator")
    x_t, t, _ = diffused("generator", x_g)
    f_psi = x_t - t[:, None] * numpy_guided(networks.fake_score, x_t, t, c, scales[1])
    f_phi = x_t - t[:, None] * numpy_guided(networks.teacher, x_t, t, c, scales[2])
    gap = f_phi - f_psi
    expected = 100 * np.mean((1 - t) * np.sum(gap * (f_phi - x_g - 1.1 * gap), axis=1))
    ours = method.generator_phase(networks, b).value.item()
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_generator_gradient_equals_finite_differences() -> None:
    """Also through both networks' inputs: zeroing either path changes the gradient a lot."""
    method = SiD(SiDConfig(sid_alpha=1.2), GeneratorConfig(steps=4))
    networks, b = exact_networks(), double_batch(evaluations=1)
    for frozen in (networks.teacher, networks.fake_score):
        frozen.requires_grad_(False)
    weights = networks.generator.module.second
    (gradient,) = torch.autograd.grad(method.generator_phase(networks, b).value, [weights])
    step = 1e-6
    for index in [(0, 0), (3, 1), (7, 2)]:
        values = []
        for sign in (1, -1):
            shifted = copy.deepcopy(networks)
            with torch.no_grad():
                shifted.generator.module.second[index] += sign * step
                values.append(method.generator_phase(shifted, b).value.item())
        numeric = (values[0] - values[1]) / (2 * step)
        assert gradient[index].item() == pytest.approx(numeric, rel=1e-5, abs=1e-6)


def test_gradient_path_through_the_networks_matters() -> None:
    method = SiD(SiDConfig(), GeneratorConfig())
    networks, b = exact_networks(), double_batch(evaluations=1)
    weights = networks.generator.module.second
    (whole,) = torch.autograd.grad(method.generator_phase(networks, b).value, [weights])

    class CutInput(ExactOwnVelocity):
        def forward(self, x_t, t, cond, with_features=False):
            return super().forward(x_t.detach(), t, cond)

    cut = Networks(
        networks.teacher,
        {**networks.trained, "fake_score": CutInput(networks.fake_score.module)},
        EMPTY,
    )
    (without,) = torch.autograd.grad(method.generator_phase(cut, b).value, [weights])
    assert (whole - without).norm() > 0.1 * whole.norm()


def test_network_evaluations_are_the_fewest() -> None:
    """k + 1 for the fake score's phase, k + 2 for the generator's; guidance doubles its own."""
    for scale, fake_nfe, generator_nfe in [(1.0, 4, 5), (0.0, 4, 5), (4.5, 5, 7)]:
        guidance = GuidanceConfig(train_fake=scale, eval_fake=scale, eval_teacher=scale)
        method = SiD(SiDConfig(guidance=guidance), GeneratorConfig())
        networks = exact_networks()
        everyone = (networks.teacher, *networks.trained.values())
        method.fake_score_phase(networks, double_batch(3))
        assert sum(n.evaluations for n in everyone) == fake_nfe * COUNT
        method.generator_phase(networks, double_batch(3))
        assert sum(n.evaluations for n in everyone) == (fake_nfe + generator_nfe) * COUNT


def test_loss_vanishes_in_value_where_fake_score_is_the_teacher() -> None:
    method = SiD(SiDConfig(), GeneratorConfig())
    networks = exact_networks()
    same = {**networks.trained, "fake_score": networks.teacher}
    loss = method.generator_phase(Networks(networks.teacher, same, EMPTY), double_batch(2))
    assert loss.value.item() == 0


def test_phases_draw_new_samples() -> None:
    b = batch()
    assert not torch.equal(b.normal("fake_score/step0"), b.normal("generator/step0"))
    assert torch.equal(b.normal("generator/step0"), b.normal("generator/step0"))


@pytest.mark.parametrize("evaluations", [1, 3])
def test_a_shared_rollout_changes_only_what_the_fake_score_sees(evaluations: int) -> None:
    """The generator learns as from a rollout of its own, k evaluations cheaper."""
    found = []
    for share in (False, True):
        method = SiD(SiDConfig(share_rollout=share), GeneratorConfig())
        networks, b = exact_networks(), double_batch(evaluations)
        first, generator = method.phases(0)
        first.loss(networks, b)
        assert (len(b.kept) == 1) is share
        loss = generator.loss(networks, b).value
        assert not b.kept
        (gradient,) = torch.autograd.grad(loss, [networks.generator.module.second])
        found.append((loss.item(), gradient, networks.generator.evaluations))
    (loss, gradient, own), (shared_loss, shared_gradient, shared) = found
    assert loss == shared_loss
    assert torch.equal(gradient, shared_gradient)
    assert (own, shared) == (2 * evaluations * COUNT, evaluations * COUNT)
    at = method.generated(networks, b, "fake_score", share=True)
    assert torch.equal(at.x_g, b.kept["rollout"].detach())
    assert not at.x_g.requires_grad
