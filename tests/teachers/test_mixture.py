"""The analytic teacher: its closed form against simulation, and the network students start at."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from workbench.data.bundled import DIGITS
from workbench.errors import RequestError
from workbench.flow.noise import NoiseSource
from workbench.teachers import denoise, sample_teacher
from workbench.teachers.analytic import (
    ANALYTIC,
    MixtureRecipe,
    MixtureTeacher,
    ModesRecipe,
    RingRecipe,
    build_mixture,
    load_mixture,
    mixture_recipe,
)
from workbench.teachers.base import Conditioning
from workbench.teachers.mixture import LOG_SHARES, ExactVelocity, Mixture
from workbench.teachers.pipeline import load_pipeline_teacher
from workbench.teachers.recipe import FlowMatchingRecipe

BRIEF = FlowMatchingRecipe(steps=5, batch_size=32, warmup_steps=1)
MIXTURE = Mixture(
    torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.5, 0.5]], dtype=torch.float64),
    0.4,
    torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64),
)
UNEQUAL = replace(
    MIXTURE, std=torch.tensor([[0.4, 0.4], [0.8, 0.2], [0.3, 0.5]], dtype=torch.float64)
)
GAUSSIAN = ANALYTIC["analytic-anisotropic"].mixture


def teacher(
    tmp_path: Path, kind: type[MixtureRecipe] = RingRecipe, **settings: object
) -> MixtureTeacher:
    recipe = kind.model_validate(
        {"samples": 100, "width": 8, "blocks": 1, "pretraining": BRIEF, **settings}
    )
    folder = tmp_path / "teacher"
    build_mixture(recipe, folder)
    return load_mixture("ring", folder)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEQUAL])
@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_the_velocity_is_the_posterior_mean(t: float, mixture: Mixture) -> None:
    """E[eps - x_0 | x_t] by importance sampling: prior samples weighed by p(x_t | x_0)."""
    x0 = mixture.sample(NoiseSource(1), "x0", 0, 400_000).double()
    for x_t in torch.tensor([[0.3, 0.4], [1.5, -1.0]], dtype=torch.float64):
        eps = (x_t - (1 - t) * x0) / t
        weight = torch.softmax(-eps.square().sum(1) / 2, dim=0)
        expected = (weight[:, None] * (eps - x0)).sum(0)
        found = mixture.velocity(x_t[None], torch.tensor([t]))[0]
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0.01)


def test_the_velocity_of_a_gaussian_is_its_posterior_mean_s() -> None:
    """E[x_0 | x_t] = mu + (1 - t) C ((1 - t)^2 C + t^2 I)^-1 (x_t - (1 - t) mu), by matrices."""
    mean = torch.linspace(-1, 1, 64, dtype=torch.float64)
    mixture, covariance = replace(GAUSSIAN, means=mean[None]), GAUSSIAN.stds[0].square().diag()
    x_t = torch.randn(3, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in (0.05, 0.5, 0.95):
        of_x_t = (1 - t) ** 2 * covariance + t**2 * torch.eye(64, dtype=torch.float64)
        away = torch.linalg.solve(of_x_t, (x_t - (1 - t) * mean).T).T
        x_0 = mean + (1 - t) * away @ covariance
        expected = (x_t - (1 - t) * x_0) / t - x_0
        found = mixture.velocity(x_t, torch.full((3,), t, dtype=torch.float64))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("steps", "left"), [(4, 0.95), (400, 0.025)])
def test_euler_steps_shrink_a_gaussian_as_they_must(steps: int, left: float) -> None:
    """Each axis by the product of 1 - slope(t) / steps, which many steps bring to its std."""
    noise = NoiseSource(3).normal("z", 0, 4000, (64,))
    drawn = sample_teacher(ExactVelocity(GAUSSIAN), None, None, noise, steps).double()
    own = GAUSSIAN.stds[0]
    times = 1 - torch.arange(steps, dtype=torch.float64)[:, None] / steps
    slopes = (times - (1 - times) * own**2) / ((1 - times) ** 2 * own**2 + times**2)
    factors = (1 - slopes / steps).prod(0)
    torch.testing.assert_close(drawn, noise * factors, rtol=1e-4, atol=1e-5)
    lost = 1 - (factors / own).square()
    assert left / 2 < lost.max() < left
    assert lost.max() == lost[-1]


def test_a_gaussian_s_axes_fall_by_equal_factors_over_a_decade() -> None:
    own = GAUSSIAN.stds[0]
    assert own[0] / own[-1] == pytest.approx(10)
    assert (own[1:] / own[:-1]).tolist() == pytest.approx([10 ** (-1 / 63)] * 63)


def test_both_ends_are_known() -> None:
    """At t = 0 x_t is x_0, at t = 1 it is noise that says nothing about x_0."""
    x = torch.tensor([[0.3, -2.0], [40.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(MIXTURE.velocity(x, torch.zeros(2)), -x)
    mean = (MIXTURE.shares[:, None] * MIXTURE.means).sum(0)
    torch.testing.assert_close(MIXTURE.velocity(x, torch.ones(2)), x - mean)


def test_nothing_underflows_far_from_every_mode() -> None:
    x = torch.tensor([[1e4, -1e4]])
    assert MIXTURE.velocity(x, torch.tensor([1e-3])).isfinite().all()


@pytest.mark.parametrize("mixture", [MIXTURE, UNEQUAL])
def test_the_velocity_is_that_of_the_density(mixture: Mixture) -> None:
    """v = -(x + t score) / (1 - t), with the score by differentiating torch's own log p_t."""
    t, x = 0.6, torch.tensor([[0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    spread = ((1 - t) ** 2 * mixture.stds**2 + t**2).sqrt()
    modes = Independent(Normal((1 - t) * mixture.means, spread), 1)
    density = MixtureSameFamily(Categorical(mixture.shares), modes)
    (score,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    expected = -(x + t * score) / (1 - t)
    torch.testing.assert_close(mixture.velocity(x, torch.tensor([t]).double()), expected)


@pytest.mark.parametrize("mixture", [MIXTURE, ANALYTIC["analytic-unequal"].mixture])
def test_many_euler_steps_reproduce_the_mixture(mixture: Mixture) -> None:
    noise = NoiseSource(3).normal("z", 0, 20_000, (2,))
    drawn = sample_teacher(ExactVelocity(mixture), None, None, noise, 200)
    label, _ = mixture.nearest(drawn)
    shares = torch.bincount(label, minlength=mixture.modes) / len(drawn)
    torch.testing.assert_close(shares.double(), mixture.shares, atol=0.02, rtol=0)
    for mode in range(mixture.modes):
        own = drawn[label == mode].double()
        torch.testing.assert_close(own.mean(0), mixture.means[mode], atol=0.04, rtol=0)
        torch.testing.assert_close(own.std(0), mixture.stds[mode], atol=0.02, rtol=0)


@pytest.mark.parametrize("mixture", [MIXTURE, UNEQUAL])
def test_samples_have_the_mixtures_moments(mixture: Mixture) -> None:
    drawn = mixture.sample(NoiseSource(0), "x", 0, 50_000).double()
    mean = (mixture.shares[:, None] * mixture.means).sum(0)
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    second = (mixture.shares[:, None] * (mixture.means.square() + mixture.stds.square())).sum(0)
    torch.testing.assert_close(drawn.square().mean(0), second, atol=0.03, rtol=0)
    assert torch.equal(drawn[10:20].float(), mixture.sample(NoiseSource(0), "x", 10, 10))


def test_a_point_belongs_to_the_mode_that_it_is_likeliest_of() -> None:
    """Between a wide and a narrow mode that may be the farther one; distances are in its std."""
    means = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    std = torch.tensor([[0.1], [1.0]], dtype=torch.float64)
    both = Mixture(means, std, torch.tensor([0.5, 0.5], dtype=torch.float64))
    label, distance = both.nearest(torch.tensor([[0.9, 0.0], [0.1, 0.1]]))
    assert label.tolist() == [1, 0]
    assert distance.tolist() == pytest.approx([1.1, math.sqrt(2)])
    few = replace(both, shares=torch.tensor([1e-9, 1.0], dtype=torch.float64))
    assert few.nearest(torch.tensor([[0.1, 0.1]]))[0].tolist() == [1]


def test_a_marginal_has_the_coordinates_asked_for() -> None:
    plane = GAUSSIAN.marginal((0, -1))
    assert plane.stds.tolist() == [pytest.approx([1.0, 0.1])]
    assert torch.equal(UNEQUAL.marginal((1, 0)).means, UNEQUAL.means.flip(1))


def test_earlier_teachers_are_kept_where_they_were() -> None:
    """Their folders, and checkpoints of their students, are told by these."""
    assert {name: recipe.hash for name, recipe in ANALYTIC.items()} == {
        "analytic-ring-8": "0752df774a",
        "analytic-ring-10-prompted": "09677dc05d",
        "analytic-unequal": "fa3d02d876",
        "analytic-anisotropic": "3f1bb9fbd9",
    }


MODES = {"means": [[0, 1], [2, 3]], "stds": [[0.1, 0.2], [0.3, 0.4]], "shares": [1, 3]}


def test_any_modes_are_a_teacher(tmp_path: Path) -> None:
    made = teacher(tmp_path, ModesRecipe, **MODES)
    assert isinstance(made.recipe, ModesRecipe)
    assert made.mixture.means.tolist() == MODES["means"]
    assert made.mixture.stds.tolist() == MODES["stds"]
    assert made.mixture.shares.tolist() == [0.25, 0.75]
    assert mixture_recipe(made.recipe.truth).truth == made.recipe.truth
    again = mixture_recipe(made.recipe.truth).mixture
    assert torch.equal(again.stds, made.mixture.stds)


@pytest.mark.parametrize(
    "change",
    [{"shares": [1]}, {"stds": [[0.1, 0.2], [0.3]]}, {"means": [[0], [1]]}, {"stds": [[0, 1]] * 2}],
)
def test_modes_that_do_not_fit_together_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        mixture_recipe({**MODES, **change})


def test_guidance_mixes_two_exact_velocities(tmp_path: Path) -> None:
    """Scale k is v_u + k (v_c - v_u); a prompt's own velocity is that of one Gaussian."""
    prompted = teacher(tmp_path, modes=10, prompted=True)
    x, t = torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), torch.full((4,), 0.7)
    cond = prompted.encode([*DIGITS.prompts_of(3)[:2], DIGITS.prompts_of(9)[0], "7"])
    uncond = prompted.uncond()
    assert cond is not None

    def at(scale: float) -> torch.Tensor:
        return denoise(prompted.network, x, t, cond, uncond, scale).velocity

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
