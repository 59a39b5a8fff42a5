"""The analytic teacher: its closed form against simulation, and the network students start at."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.teachers import guided_velocity, sample_teacher
from workbench.teachers.analytic import (
    MixtureRecipe,
    MixtureTeacher,
    build_mixture,
    load_mixture,
)
from workbench.teachers.base import Conditioning
from workbench.teachers.digits import DIGITS
from workbench.teachers.mixture import LOG_SHARES, ExactVelocity, Mixture
from workbench.teachers.pipeline import load_pipeline_teacher
from workbench.teachers.recipe import FlowMatchingRecipe

BRIEF = FlowMatchingRecipe(steps=5, batch_size=32, warmup_steps=1)
MIXTURE = Mixture(
    torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.5, 0.5]], dtype=torch.float64),
    0.4,
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
)


def teacher(tmp_path: Path, **settings: object) -> MixtureTeacher:
    recipe = MixtureRecipe.model_validate(
        {"samples": 100, "width": 8, "blocks": 1, "pretraining": BRIEF, **settings}
    )
    folder = tmp_path / "teacher"
    build_mixture(recipe, folder)
    return load_mixture("ring", folder)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_velocity_is_the_posterior_mean(t: float) -> None:
    """E[eps - x_0 | x_t] by importance sampling: prior samples weighed by p(x_t | x_0)."""
    x0 = MIXTURE.sample(NoiseSource(1), "x0", 0, 400_000).double()
    for x_t in torch.tensor([[0.3, 0.4], [1.5, -1.0]], dtype=torch.float64):
        eps = (x_t - (1 - t) * x0) / t
        weight = torch.softmax(-eps.square().sum(1) / 2, dim=0)
        expected = (weight[:, None] * (eps - x0)).sum(0)
        found = MIXTURE.velocity(x_t[None], torch.tensor([t]))[0]
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)


def test_both_ends_are_known() -> None:
    """At t = 0 x_t is x_0, at t = 1 it is noise that says nothing about x_0."""
    x = torch.tensor([[0.3, -2.0], [40.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(MIXTURE.velocity(x, torch.zeros(2)), -x)
    mean = (MIXTURE.shares[:, None] * MIXTURE.means).sum(0)
    torch.testing.assert_close(MIXTURE.velocity(x, torch.ones(2)), x - mean)


def test_nothing_underflows_far_from_every_mode() -> None:
    x = torch.tensor([[1e4, -1e4]])
    assert MIXTURE.velocity(x, torch.tensor([1e-3])).isfinite().all()


def test_the_velocity_is_that_of_the_density() -> None:
    """v = -(x + t score) / (1 - t), with the score by differentiating log p_t numerically."""
    t, x = 0.6, torch.tensor([[0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    variance = (1 - t) ** 2 * MIXTURE.std**2 + t**2
    away = (x - (1 - t) * MIXTURE.means).square().sum(1)
    log_density = torch.logsumexp(MIXTURE.shares.log() - away / (2 * variance), dim=0)
    (score,) = torch.autograd.grad(log_density, x)
    expected = -(x + t * score) / (1 - t)
    torch.testing.assert_close(MIXTURE.velocity(x, torch.tensor([t]).double()), expected)


def test_many_euler_steps_reproduce_the_mixture() -> None:
    noise = NoiseSource(3).normal("z", 0, 20_000, (2,))
    drawn = sample_teacher(ExactVelocity(MIXTURE), None, None, noise, 200)
    label, _ = MIXTURE.nearest(drawn)
    shares = torch.bincount(label, minlength=3) / len(drawn)
    torch.testing.assert_close(shares.double(), MIXTURE.shares, atol=0.02, rtol=0)
    for mode in range(3):
        own = drawn[label == mode].double()
        torch.testing.assert_close(own.mean(0), MIXTURE.means[mode], atol=0.03, rtol=0)
        assert own.std(0).tolist() == pytest.approx([0.4, 0.4], abs=0.02)


def test_samples_have_the_mixtures_moments() -> None:
    drawn = MIXTURE.sample(NoiseSource(0), "x", 0, 50_000).double()
    mean = (MIXTURE.shares[:, None] * MIXTURE.means).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    second = (MIXTURE.shares[:, None] * MIXTURE.means.square()).sum(0) + 0.16
    torch.testing.assert_close(drawn.square().mean(0), second, atol=0.03, rtol=0)
    assert torch.equal(drawn[10:20].float(), MIXTURE.sample(NoiseSource(0), "x", 10, 10))


def test_guidance_mixes_two_exact_velocities(tmp_path: Path) -> None:
    """Scale k is v_u + k (v_c - v_u); a prompt's own velocity is that of one Gaussian."""
    prompted = teacher(tmp_path, modes=10, prompted=True)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.7)
    cond = prompted.encode([*DIGITS.prompts_of(3)[:2], DIGITS.prompts_of(9)[0], "7"])
    uncond = prompted.uncond()
    assert cond is not None

    def at(scale: float) -> torch.Tensor:
        return guided_velocity(prompted.network, x, t, cond, uncond, scale)

    torch.testing.assert_close(at(3.0), at(0.0) + 3 * (at(1.0) - at(0.0)))
    torch.testing.assert_close(at(0.0), prompted.mixture.velocity(x, t).float())
    variance = 0.09 * 0.0625 + 0.49
    mean = prompted.mixture.means[[3, 3, 9, 7]]
    slope = (0.7 - 0.3 * 0.0625) / variance
    torch.testing.assert_close(at(1.0), (slope * (x - 0.3 * mean) - mean).float())


def test_the_gradient_reaches_the_input_at_any_precision() -> None:
    network = ExactVelocity(MIXTURE).to(torch.bfloat16)
    x = torch.tensor([[0.2, 0.1]], requires_grad=True)
    asked = Conditioning({LOG_SHARES: MIXTURE.asking(torch.tensor([1])).float()})
    (gradient,) = torch.autograd.grad(network(x, torch.tensor([0.5]), asked).sum(), x)
    variance = 0.25 * 0.16 + 0.25
    expected = torch.full((1, 2), (0.5 - 0.5 * 0.16) / variance)
    torch.testing.assert_close(gradient, expected)


def test_a_built_teacher_is_the_same_again(tmp_path: Path) -> None:
    one = teacher(tmp_path / "a")
    other = teacher(tmp_path / "b")
    assert one.fingerprint == other.fingerprint
    assert "/" not in one.fingerprint  # parts of a checkpoint's identity
    assert teacher(tmp_path / "c", seed=1).fingerprint != one.fingerprint
    assert one.start is not None
    assert one.start.feature_layer().out_features == 2
    assert one.encode(["anything"]) is None


def test_pretraining_comes_near_the_closed_form(tmp_path: Path) -> None:
    """Less than half of the error of answering 0 is left after 150 steps."""
    brief = FlowMatchingRecipe(steps=150, batch_size=128, ema_decay=0.9, warmup_steps=10)
    made = teacher(tmp_path, width=32, samples=5000, pretraining=brief)
    x0 = made.mixture.sample(NoiseSource(8), "x", 0, 1000)
    eps, t = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)), torch.tensor(0.2)
    x_t, times = torch.lerp(x0, eps, t), t.expand(1000)
    assert made.start is not None
    exact = made.network(x_t, times, None)
    error = (made.start(x_t, times, None) - exact).square().mean()
    assert error < 0.5 * exact.square().mean()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "mixture.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "mixture.json").write_text('{"modes": 0}'), "damaged: modes"),
        (lambda folder: (folder / "start/model.safetensors").unlink(), "Cannot load the teacher"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, break_it: object, message: str) -> None:
    made = teacher(tmp_path)
    assert callable(break_it)
    break_it(made.folder)
    with pytest.raises(RequestError, match=message):
        load_mixture("ring", made.folder)


def test_what_needs_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="draws points, not images"):
        load_pipeline_teacher("ring", teacher(tmp_path).folder)


def test_a_prompt_must_name_a_mode(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="names none"):
        teacher(tmp_path, modes=10, prompted=True).encode(["a cat"])


def test_a_ring_is_a_ring() -> None:
    ring = Mixture.ring(8, 2.0, 0.25)
    assert ring.means.norm(dim=1).tolist() == pytest.approx([2.0] * 8)
    nearest = torch.cdist(ring.means, ring.means).fill_diagonal_(9).min(1).values
    assert nearest.tolist() == pytest.approx([4 * math.sin(math.pi / 8)] * 8)
