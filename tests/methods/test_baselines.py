"""The baselines against their papers' formulas, computed a second way."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import EMPTY, labels
from tests.methods.test_adversarial import COUNT, FixedPairs, Tokens
from workbench.flow import WEIGHTINGS, NoiseSource, TrigFlow, convert, euler, get_density
from workbench.methods import (
    DIVERGENCES,
    METHODS,
    Batch,
    GeneratorConfig,
    Networks,
    dmd_loss,
    make_method,
)
from workbench.methods.dmd2 import Discriminator
from workbench.methods.meanflow import adaptive_weight, next_time
from workbench.methods.scm import normalized, tangent, trigflow_prediction
from workbench.methods.tangents import with_tangent
from workbench.teachers.base import OwnVelocity


@pytest.fixture
def networks() -> Networks:
    made = [OwnVelocity(Tokens(seed)) for seed in range(3)]
    torch.manual_seed(5)
    heads = {"discriminator": Discriminator(8)}
    return Networks(made[0], {"fake_score": made[1], "generator": made[2]}, EMPTY, heads)


@pytest.fixture
def batch() -> Batch:
    cpu = torch.device("cpu")
    return Batch(12, COUNT, labels(COUNT), 2, NoiseSource(4), (2, 3), cpu, FixedPairs())


def method(name: str, noise: str = "fresh", **settings: object):
    kind = METHODS[name]
    scale = {"loss_scale": 1.0} if "loss_scale" in kind.model_fields else {}
    return make_method(kind(**scale, **settings), GeneratorConfig(noise=noise))


def test_the_gradient_of_dmd_is_the_normalised_score_difference() -> None:
    """Equation 7 of DMD: (f_psi - f_phi) / mean|x_g - f_phi|, and nothing through the scores."""
    torch.manual_seed(0)
    x_g, f_phi, f_psi = torch.randn(3, COUNT, 2, 3, requires_grad=True).unbind()
    x_g.retain_grad(), f_phi.retain_grad()
    loss = dmd_loss(x_g, f_phi, f_psi, torch.rand(COUNT), WEIGHTINGS["sid"])
    loss.backward()
    size = (x_g - f_phi).abs().flatten(1).mean(1).view(-1, 1, 1)
    torch.testing.assert_close(x_g.grad, (f_psi - f_phi) / size / COUNT)
    assert f_phi.grad is None


def test_dmd_minimises_the_kl_divergence() -> None:
    """For Gaussians N(m, 1) with the exact score of the samples, it descends to the teacher's m."""
    mean = torch.tensor(3.0, requires_grad=True)
    adam = torch.optim.Adam([mean], lr=0.1)
    density, weighting = get_density("ddpm", (0.0735, 0.9923)), WEIGHTINGS["sid"]
    noise = NoiseSource(0)

    def x0_hat(x: Tensor, t: Tensor, m: float) -> Tensor:
        return m + (1 - t) / ((1 - t) ** 2 + t**2) * (x - (1 - t) * m)

    for step in range(200):
        at = 64 * step
        x_g = mean + noise.normal("z", at, 64, (1,))
        t = density.quantile(noise.uniform("t", at, 64)).float()
        x_t = torch.lerp(x_g.detach(), noise.normal("eps", at, 64, (1,)), t[:, None])
        phi, psi = (x0_hat(x_t, t[:, None], m) for m in (-1.0, mean.item()))
        adam.zero_grad()
        dmd_loss(x_g, phi, psi, t, weighting).backward()
        adam.step()
    assert mean.item() == pytest.approx(-1.0, abs=0.1)


F = {
    "reverse-kl": lambda r: -r.log(),
    "jensen-shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "squared-hellinger": lambda r: 2 * (r.sqrt() - 1) ** 2 / 2,
    "forward-kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_each_divergence_weighs_by_its_second_derivative(name: str) -> None:
    r = torch.linspace(0.1, 5, 20, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(F[name](r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    torch.testing.assert_close(DIVERGENCES[name](r.detach()), r.detach() ** 2 * second)


@pytest.mark.parametrize("name", ["sid", "sid2a", "dmd", "dmd2", "f_distill"])
def test_each_update_of_the_fake_score_has_a_draw_of_its_own(
    networks: Networks, batch: Batch, name: str
) -> None:
    """Of prompts, of samples and of noise: nothing is asked for twice in an iteration."""
    streams: list[str] = []

    class Listening(NoiseSource):
        def normal(self, stream: str, *where: Any) -> Tensor:
            streams.append(stream)
            return super().normal(stream, *where)

        def uniform(self, stream: str, *where: Any) -> Tensor:
            streams.append(stream)
            return super().uniform(stream, *where)

    ours = method(name, fake_score_updates=5)
    *updates, generator = ours.phases(10**9)
    trains = ("fake_score", "discriminator") if name in ("dmd2", "f_distill") else ("fake_score",)
    assert [phase.roles for phase in updates] == [trains] * 5
    assert [phase.draw for phase in updates] == [0, 1, 2, 3, 4]
    assert (generator.roles, generator.draw) == (("generator",), 0)
    heard = replace(batch, noise=Listening(4))
    losses = [phase.loss(networks, heard).value.item() for phase in (*updates, generator)]
    assert len(set(streams)) == len(streams) > 15
    assert len(set(losses)) == 6
    plain = [phase.roles for phase in method(name).phases(10**9)]
    usual = METHODS[name]().fake_score_updates
    assert plain == [trains] * usual + [("generator",)]
    assert usual == (5 if name in ("dmd2", "f_distill") else 1)


def test_dmd2_is_dmd_with_an_adversarial_term(networks: Networks, batch: Batch) -> None:
    plain = method("dmd").generator_phase(networks, batch).value
    without = method("dmd2", gan_generator_weight=0.0).generator_phase(networks, batch)
    torch.testing.assert_close(plain, without.value)
    whole = method("dmd2", gan_generator_weight=0.25).generator_phase(networks, batch)
    ours = method("dmd2")
    x_g = ours.rollout(networks, batch)
    at = ours.diffuse(x_g, batch, "generator")
    features = networks.fake_score.module.features(at.x_t, at.t, batch.cond)
    logits = networks.heads["discriminator"](features)
    deceived = nn.functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
    torch.testing.assert_close(whole.value, plain + 0.25 * 6 * deceived)
    torch.testing.assert_close(whole.metrics["train/adversarial_loss"], 6 * deceived.detach())


def test_f_distill_with_the_reverse_kl_is_dmd2(networks: Networks, batch: Batch) -> None:
    """And with another divergence each sample's score difference is scaled by h(exp(logit))."""
    dmd2 = method("dmd2", gan_generator_weight=0.0).generator_phase(networks, batch).value
    reverse, forward = (
        method("f_distill", gan_generator_weight=0.0, divergence=name)
        for name in ("reverse-kl", "forward-kl")
    )
    same = reverse.generator_phase(networks, batch)
    torch.testing.assert_close(same.value, dmd2)
    assert same.metrics["train/importance"] == 1
    ratio = same.metrics["train/log_ratio"]
    assert forward.generator_phase(networks, batch).metrics["train/log_ratio"] == ratio > 0
    logits = torch.tensor([[-1.0], [0.0], [9.0]])
    torch.testing.assert_close(
        forward.importance(logits), torch.tensor([math.exp(-1), 1.0, math.exp(5)])
    )


def test_a_tangent_is_the_limit_of_differences() -> None:
    network = OwnVelocity(Tokens(3).double())
    network.predict = lambda x, t, cond: network.module.velocity(x, t, cond)
    x, dx = torch.randn(2, COUNT, 2, 3, dtype=torch.float64)
    t, dt = torch.rand(2, COUNT, dtype=torch.float64)

    def field(x: Tensor, t: Tensor) -> Tensor:
        return network.module.velocity(x, t, None) * x.sin()

    value, along = with_tangent(network, field, (x, t), (dx, dt))
    h = 1e-6
    difference = (field(x + h * dx, t + h * dt) - field(x - h * dx, t - h * dt)) / (2 * h)
    torch.testing.assert_close(value, field(x, t))
    torch.testing.assert_close(along, difference, rtol=1e-6, atol=1e-6)
    assert not along.requires_grad
    assert network.evaluations == COUNT  # the product's; the field here bypasses the counter


def test_trigflow_prediction_is_the_calculus_own() -> None:
    torch.manual_seed(1)
    x_s, velocity = torch.randn(2, COUNT, 2, 3, dtype=torch.float64)
    s = torch.linspace(0.1, 1.5, COUNT, dtype=torch.float64)
    coefficients = TrigFlow().coefficients(s)
    expected = convert(velocity, x_s, coefficients, "velocity", "trigflow")
    torch.testing.assert_close(trigflow_prediction(lambda x, t: velocity, x_s, s), expected)


def test_the_tangent_of_consistency_is_that_of_f() -> None:
    """cos(s) d/ds [cos(s) x_s - sin(s) F(x_s, s)] along the teacher's path, by differences."""
    network = Tokens(3).double()

    def prediction(x: Tensor, s: Tensor) -> Tensor:
        return trigflow_prediction(lambda x, t: network.velocity(x, t, None), x, s)

    def f(x: Tensor, s: Tensor) -> Tensor:
        return s.cos().view(-1, 1, 1) * x - s.sin().view(-1, 1, 1) * prediction(x, s)

    torch.manual_seed(2)
    x, path = torch.randn(2, COUNT, 2, 3, dtype=torch.float64)
    s = torch.linspace(0.1, 1.4, COUNT, dtype=torch.float64)
    h = 1e-6
    df_ds = (f(x + h * path, s + h) - f(x - h * path, s - h)) / (2 * h)
    with torch.no_grad():
        ahead, behind = prediction(x + h * path, s + h), prediction(x - h * path, s - h)
        speed = (s.cos() * s.sin()).view(-1, 1, 1)
        d_prediction = speed * (ahead - behind) / (2 * h)
        g = tangent(x, s, prediction(x, s), d_prediction, path, 1.0)
    torch.testing.assert_close(g, s.cos().view(-1, 1, 1) * df_ds, rtol=1e-5, atol=1e-6)
    size = normalized(g, 0.1).square().flatten(1).mean(1).sqrt()
    rms = g.square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(size, rms / (rms + 0.1))


def test_a_consistent_student_has_nothing_to_learn() -> None:
    """For data at one point, x0_hat = that point is consistent: the tangent vanishes."""
    point = torch.full((COUNT, 2, 3), 0.7, dtype=torch.float64)

    def exact(x_t: Tensor, t: Tensor) -> Tensor:
        return (x_t - point) / t.view(-1, 1, 1)

    s = torch.linspace(0.2, 1.4, COUNT, dtype=torch.float64)
    x_s = TrigFlow().interpolate(point, torch.randn_like(point), s)
    dx_ds = trigflow_prediction(exact, x_s, s)
    network, speed = OwnVelocity(Tokens(0)), s.cos() * s.sin()
    field = lambda x, s: trigflow_prediction(exact, x, s)  # noqa: E731
    f, df = with_tangent(network, field, (x_s, s), (speed.view(-1, 1, 1) * dx_ds, speed))
    assert tangent(x_s, s, f, df, dx_ds, 1.0).abs().max() < 1e-12


def test_next_time() -> None:
    grid = torch.tensor([1.0, 0.75, 0.5, 0.25])
    t = torch.tensor([1.0, 0.76, 0.75, 0.74, 0.25, 0.01])
    assert next_time(t, grid).tolist() == [0.75, 0.75, 0.5, 0.5, 0.0, 0.0]
    # A step reaches a little beyond the time where it is used: 0.76 still belongs to that of 0.75.
    assert next_time(t, grid, 0.2).tolist() == [0.75, 0.5, 0.5, 0.5, 0.0, 0.0]
    # However short the steps: every time of the grid still leads to the next.
    fine = 1 - torch.arange(64) / 64
    assert next_time(fine, fine, 0.2).tolist() == [*fine[1:].tolist(), 0.0]


def test_the_average_velocity_satisfies_its_identity() -> None:
    """u = (x_t - x_r) / (t - r) of a linear field, whose path is known: loss 0 where it is exact.

    v = x / t' has straight paths x_t = t c, so that u = v everywhere; and v = a x has x_r =
    x_t exp(a (r - t)), so that u = x (1 - exp(a (r - t))) / (t - r).
    """
    a, grid = 0.8, torch.tensor([1.0, 0.5], dtype=torch.float64)
    x = torch.randn(COUNT, 2, 3, dtype=torch.float64)
    t = torch.linspace(0.55, 0.95, COUNT, dtype=torch.float64)

    def average(x: Tensor, t: Tensor) -> Tensor:
        span = (t - next_time(t.detach(), grid)).view(-1, 1, 1)
        return x * (1 - torch.exp(-a * span)) / span

    u, du_dt = with_tangent(OwnVelocity(Tokens(0)), average, (x, t), (a * x, torch.ones_like(t)))
    span = (t - next_time(t, grid)).view(-1, 1, 1)
    torch.testing.assert_close(a * x - span * du_dt, u)
    there = euler(lambda x, t: a * x, x[:1], torch.linspace(t[0], 0.5, 2001).double())
    torch.testing.assert_close(there, x[:1] - span[:1] * u[:1], rtol=1e-4, atol=1e-4)


def test_meanflow_weighs_errors_down(networks: Networks, batch: Batch) -> None:
    plain = method("meanflow", "ddim", weight_power=0.0).average_velocity_phase(networks, batch)
    torch.testing.assert_close(plain.value.detach(), plain.metrics["train/generator_loss"])
    whole = method("meanflow", "ddim").average_velocity_phase(networks, batch).value
    assert 0.9 < whole.item() <= 1  # error / (error + c)
    squared = torch.tensor([3.0], requires_grad=True)
    (adaptive_weight(squared, 1.0, 1.0) * squared).backward()
    assert squared.grad == 0.25


def test_meanflow_s_target(networks: Networks, batch: Batch) -> None:
    """v - (t - r) du/dt with du/dt by differences along the teacher's velocity."""
    ours = method("meanflow", "ddim", weight_power=0.0)
    real = batch.real("generator")
    t = ours.density.quantile(batch.uniform("generator/t")).to(real.latents)
    x_t = torch.lerp(real.latents, batch.normal("generator/eps"), t.view(-1, 1, 1))
    u = lambda x, t: networks.generator(x, t, real.cond)  # noqa: E731
    with torch.no_grad():
        v, h = networks.teacher(x_t, t, real.cond), 1e-2
        du_dt = (u(x_t + h * v, t + h) - u(x_t - h * v, t - h)) / (2 * h)
        span = (t - next_time(t, torch.tensor(ours.sampler.times), 0.2)).view(-1, 1, 1)
        expected = (u(x_t, t) - (v - span * du_dt)).square().flatten(1).sum(1).mean()
    loss = ours.average_velocity_phase(networks, batch).value
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-3, atol=1e-4)


def test_kd_s_target_is_the_teacher_s_path(networks: Networks, batch: Batch) -> None:
    ours = method("kd", "ddim", substeps=3)
    x = batch.normal("generator/step0")
    teach = lambda x, t: networks.teacher(x, t, batch.cond)  # noqa: E731
    expected = torch.zeros(())
    for start, end in pairwise([1.0, 0.75, 0.5, 0.25, 0.0]):
        after = euler(teach, x, torch.linspace(start, end, 4))
        v = networks.generator(x, torch.full((COUNT,), start), batch.cond)
        error = (x - (start - end) * v) - after
        expected = expected + error.square().flatten(1).sum(1).mean() / 4
        x = after
    networks.generator.evaluations = networks.teacher.evaluations = 0
    loss = ours.trajectory_phase(networks, batch).value
    torch.testing.assert_close(loss, expected.detach())
    assert networks.teacher.evaluations == 12 * COUNT
    assert networks.generator.evaluations == 4 * COUNT


def test_a_kd_student_that_copies_a_one_step_teacher_is_perfect(
    networks: Networks, batch: Batch
) -> None:
    copied = Networks(networks.teacher, {"generator": networks.teacher}, EMPTY)
    assert method("kd", "ddim", substeps=1).trajectory_phase(copied, batch).value < 1e-12
