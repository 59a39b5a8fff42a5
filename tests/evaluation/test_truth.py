"""Scores against a known distribution, by second computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import Sampler
from workbench.evaluation.frechet import FeatureStatistics, frechet_distance
from workbench.evaluation.sliced import directions, sliced_wasserstein
from workbench.evaluation.truth import (
    AXIS_SCORES,
    MODE_SCORES,
    axis_scores,
    floor,
    mixture_hash,
    mode_scores,
    mode_statistics,
    own_scores,
    truth,
    truth_evaluator,
)
from workbench.flow.noise import NoiseSource
from workbench.teachers.analytic import ANALYTIC, mode_labels
from workbench.teachers.mixture import Mixture

RING = Mixture.ring(8, 2.0, 0.25)
GAUSSIAN = ANALYTIC["analytic-anisotropic"].mixture


def points(count: int, dimension: int = 2, stream: str = "a") -> np.ndarray:
    return NoiseSource(0).normal(stream, 0, count, (dimension,)).numpy()


@pytest.mark.parametrize("sizes", [(60, 60), (60, 45), (7, 50)])
def test_one_dimension_is_an_assignment_problem(sizes: tuple[int, int]) -> None:
    """W_2 of unequal samples by repeating each until both are equally many, then sorting."""
    one, other = points(sizes[0], 1), points(sizes[1], 1, "b") + 0.5
    least = np.lcm(*sizes)
    repeated = [np.sort(np.repeat(x[:, 0], least // len(x))) for x in (one, other)]
    expected = np.sqrt(np.square(repeated[0] - repeated[1]).mean())
    assert sliced_wasserstein(one, other, 64) == pytest.approx(expected, rel=1e-6)


def test_scipy_agrees_on_sorted_shifts() -> None:
    """Where one sample is the other shifted, W_1 (scipy's) and W_2 are both the shift."""
    one = points(200, 1)
    other = one[::-1] + 0.3
    shift = stats.wasserstein_distance(one[:, 0], other[:, 0])
    assert sliced_wasserstein(one, other, 1) == pytest.approx(shift, rel=1e-5)


def test_a_shift_in_the_plane_shows_by_its_share_in_each_direction() -> None:
    """<shift, direction>^2 is |shift|^2 / 2 in the mean over equally spaced directions."""
    one = points(300)
    distance = sliced_wasserstein(one, one + np.array([0.6, 0.8]), 64)
    assert distance == pytest.approx(np.sqrt(0.5), rel=1e-5)


def test_a_scale_shows_as_the_difference_of_standard_deviations() -> None:
    """W_2 of two Gaussians of one mean is the difference of their standard deviations."""
    one, other = points(200_000), 0.7 * points(200_000, stream="b")
    assert sliced_wasserstein(one, other, 16) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_directions_are_unit_vectors(dimension: int) -> None:
    unit = directions(32, dimension)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)
    if dimension == 2:  # equally spaced: second moments are those of the circle
        np.testing.assert_allclose(unit.T @ unit / 32, np.eye(2) / 2, atol=1e-12)


def test_modes_are_told_apart() -> None:
    labels = torch.arange(8).repeat_interleave(torch.tensor([100, 300, 100, 100, 100, 100, 100, 0]))
    normal = NoiseSource(1).normal("n", 0, 900, (2,)) * torch.tensor([1.0, 0.5])
    rows = RING.at(labels, normal).numpy()
    rows = np.concatenate([rows, np.full((100, 2), 9.0, np.float32)])
    seen = mode_statistics(rows, RING)
    assert seen.outliers == pytest.approx(0.1)
    assert seen.shares[1] == pytest.approx(0.3 + 0.1)  # outliers are nearest to it
    assert seen.shares[7] == 0
    assert seen.stds[7] == 0
    expected = np.cov(rows[100:400], rowvar=False)
    np.testing.assert_allclose(seen.covariances[1], expected, rtol=1e-4)
    np.testing.assert_allclose(np.diag(expected), [0.0625, 0.015625], rtol=0.25)
    offset = (rows[100:400].mean(0) - RING.means[1].numpy()) / 0.25
    np.testing.assert_allclose(seen.offsets[1], offset, atol=1e-4)


def test_scores_of_narrowed_modes() -> None:
    narrow = Mixture(RING.means, 0.18, RING.shares).sample(NoiseSource(4), "x", 0, 20_000).numpy()
    scores = mode_scores(narrow, RING)
    assert scores["mode_std"] == pytest.approx(0.18, rel=0.02)
    assert scores["mode_std_min"] < scores["mode_std"]
    assert scores["mode_cov_error"] == pytest.approx(1 - (0.18 / 0.25) ** 2, abs=0.03)
    assert scores["outliers"] == 0
    assert scores["share_tv"] < 0.02


def test_unequal_modes_are_measured_in_their_own_widths() -> None:
    """Samples at half of every std, moved by one std: far of a narrow mode is near of a wide."""
    mixture = ANALYTIC["analytic-unequal"].mixture
    labels = torch.arange(6).repeat_interleave(2000)
    normal = 0.5 * NoiseSource(2).normal("n", 0, len(labels), (2,)) + torch.tensor([1.0, 0.0])
    normal[::100] = torch.tensor([3.9, 0.0])
    normal[50::100] = torch.tensor([4.1, 0.0])
    rows = mixture.at(labels, normal).numpy()
    seen = mode_statistics(rows, mixture)
    np.testing.assert_allclose(seen.offsets[:, 0], 1.03, atol=0.05)
    np.testing.assert_allclose(seen.shares, 1 / 6)
    assert seen.outliers == pytest.approx(0.01)
    scores = mode_scores(rows, mixture)
    assert scores["mode_cov_error"] == pytest.approx(0.72, abs=0.03)  # 1 - 0.5^2, but for the far
    assert scores["mode_std_min"] == pytest.approx(0.053, rel=0.1)


def test_a_gaussian_is_judged_along_its_axes() -> None:
    """Against the Frechet distance of FID, and variances that are known."""
    assert own_scores(GAUSSIAN).names == AXIS_SCORES
    factors = torch.linspace(1.2, 0.4, 64, dtype=torch.float64)
    narrow = Mixture(GAUSSIAN.means + 0.1, GAUSSIAN.stds * factors, GAUSSIAN.shares)
    rows = narrow.sample(NoiseSource(4), "x", 0, 20_000).numpy()
    scores = axis_scores(rows, GAUSSIAN)
    true = FeatureStatistics(np.zeros(64), GAUSSIAN.stds[0].square().diag().numpy(), 2)
    distance = frechet_distance(FeatureStatistics.from_features(rows), true)
    assert scores["gaussian_w2"] == pytest.approx(math.sqrt(distance), rel=1e-6)
    exact = 64 * 0.1**2 + ((1 - factors) * GAUSSIAN.stds[0]).square().sum()
    assert scores["gaussian_w2"] == pytest.approx(math.sqrt(exact), rel=0.02)
    parts = [float(part.square().mean()) for part in factors.split(16)]
    assert [scores[name] for name in AXIS_SCORES[1:]] == pytest.approx(parts, rel=0.02)
    turned = Mixture(GAUSSIAN.means, GAUSSIAN.stds.flip(1), GAUSSIAN.shares)
    flipped = axis_scores(rows[:, ::-1] - 0.1, turned)  # axes are told by their size, not by place
    assert [flipped[name] for name in AXIS_SCORES[1:]] == pytest.approx(parts, rel=0.02)


def test_the_evaluator_scores_a_gaussian_at_its_floor() -> None:
    evaluator = truth_evaluator(GAUSSIAN, ("",) * 2000)
    assert evaluator is not None
    fresh = torch.from_numpy(truth(GAUSSIAN, 2000, "fresh"))
    scores = evaluator.evaluate(Sampler(lambda _, start, n: fresh[start : start + n], 1, 1)).values
    found = floor(GAUSSIAN, 2000, pairs=10)
    assert set(scores) == set(found) == {"sliced_w2", *AXIS_SCORES}
    for name, value in scores.items():
        assert found[name]["mean"] == pytest.approx(value, rel=0.15), name
    assert found["axis_variance_4"]["mean"] == pytest.approx(1, rel=0.01)


def test_what_a_ring_s_scores_are_made_of_is_told_as_before() -> None:
    assert mixture_hash(RING) == "98b110210824d8d5"
    wider = Mixture(RING.means, torch.full((8, 1), 0.3).double(), RING.shares)
    assert len({mixture_hash(each) for each in (RING, wider, GAUSSIAN)}) == 3


def test_cores_show_flat_modes_that_a_few_far_samples_hide_from_the_std() -> None:
    """Nine of ten samples of a mode on a line at 30 degrees, one far: std and cores of each."""
    noise = NoiseSource(5)
    along = noise.normal("along", 0, 9000, (1,)).double() * 0.25
    line = along * torch.tensor([[math.cos(math.pi / 6), math.sin(math.pi / 6)]]).double()
    far = noise.normal("far", 0, 1000, (2,)).double() * 0.6
    rows = (torch.cat([line, far]) + RING.means[2]).numpy()
    own = mode_statistics(rows, Mixture(RING.means[2:3], 0.25, torch.ones(1).double()))
    assert own.stds[0] > 0.2
    assert own.cores[0, 0] < 0.02
    assert own.cores[0, 1] == pytest.approx(0.26, rel=0.05)
    whole = mode_statistics(truth(RING, 40_000), RING)
    np.testing.assert_allclose(whole.cores, 0.25, rtol=0.08)


def test_total_variation_of_shares() -> None:
    rows = RING.at(torch.tensor([0, 1, 2, 3] * 50), torch.zeros(200, 2)).numpy()
    assert mode_scores(rows, RING)["share_tv"] == pytest.approx(0.5)


def test_the_floor_is_what_fresh_truth_scores() -> None:
    """More samples, a lower floor; about sqrt(2) from four times as many, for shares decide."""
    few, many = floor(RING, 500, pairs=10), floor(RING, 8000, pairs=10)
    assert few["sliced_w2"]["low"] <= few["sliced_w2"]["mean"] <= few["sliced_w2"]["high"]
    assert many["sliced_w2"]["mean"] < 0.7 * few["sliced_w2"]["mean"]
    assert many["mode_std"]["mean"] == pytest.approx(0.25, rel=0.01)
    assert many["share_tv"]["mean"] < few["share_tv"]["mean"]


def test_the_evaluator_scores_the_truth_at_the_floor() -> None:
    count = 2000
    evaluator = truth_evaluator(RING, ("",) * count, batch_size=300)
    fresh = torch.from_numpy(truth(RING, count, "fresh"))
    scores = evaluator.evaluate(Sampler(lambda _, start, n: fresh[start : start + n], 1, 1))
    assert evaluator.metrics[0].name == "sliced_w2"
    reference = truth(RING, count)
    expected = sliced_wasserstein(fresh.numpy(), reference, 64)
    assert scores.values["sliced_w2"] == pytest.approx(expected)
    assert set(scores.values) == {"sliced_w2", *MODE_SCORES}
    found = floor(RING, count)["sliced_w2"]
    assert 0.5 * found["low"] < scores.values["sliced_w2"] < 2 * found["high"]


def test_asked_modes_are_counted() -> None:
    labels = torch.arange(8).repeat(10)
    prompts = [str(int(label)) for label in labels]
    drawn = RING.at(
        torch.where(torch.arange(80) < 20, (labels + 1) % 8, labels), torch.zeros(80, 2)
    )

    def asked(given: object) -> torch.Tensor:
        return torch.tensor([int(prompt) for prompt in given])

    evaluator = truth_evaluator(RING, prompts, label=asked, batch_size=16)
    scores = evaluator.evaluate(Sampler(lambda _, start, n: drawn[start : start + n], 1, 1))
    assert scores.values["alignment"] == pytest.approx(0.75)


def test_points_that_are_not_finite_give_no_score() -> None:
    drawn = torch.zeros(20, 2)
    drawn[13, 1] = float("nan")
    evaluator = truth_evaluator(RING, ("",) * 20, batch_size=8)
    with pytest.raises(WorkbenchError, match="Sample 13 is not finite"):
        evaluator.evaluate(Sampler(lambda _, start, n: drawn[start : start + n], 1, 1))


def test_prompts_that_ask_for_no_mode_are_refused_before_anything_is_drawn() -> None:
    with pytest.raises(RequestError, match=r"alignment cannot judge .*'some dogs'"):
        truth_evaluator(RING, ["the digit 1"] * 20 + ["some dogs"], label=mode_labels)
    # A mode may be asked for in any words.
    assert (
        truth_evaluator(RING, ["the digit 1", "draw mode 2"] * 10, label=mode_labels).samples == 20
    )
