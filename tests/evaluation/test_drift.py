"""Drift from the teacher: every statistic against an answer that is known without it."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import convolve
from scipy.spatial.distance import pdist
from torch import Tensor

from workbench.errors import RequestError
from workbench.evaluation.drift import Look, Ratio, drift_from, look_of
from workbench.evaluation.grids import NotFiniteError
from workbench.metrics import DRIFT_METRICS

PROMPTS, SEEDS, SIZE, PATCH = 3, 4, 32, 8
LUMA = torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)


def images(size: int = SIZE, low: float = 0.25, high: float = 0.75) -> Tensor:
    """Smooth colored pictures with some noise, float64 in [low, high]."""
    random = torch.Generator().manual_seed(1)
    coarse = torch.rand(PROMPTS * SEEDS, 3, 4, 4, generator=random, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    noise = torch.rand(smooth.shape, generator=random, dtype=torch.float64)
    return low + (high - low) * (0.8 * smooth + 0.2 * noise)


def latents() -> Tensor:
    return torch.randn(PROMPTS * SEEDS, 4, 5, generator=torch.Generator().manual_seed(2))


def look(pictures: Tensor, codes: Tensor | None = None, patch: int = PATCH) -> Look:
    return look_of(pictures, latents() if codes is None else codes, PROMPTS, patch)


def drift(change: Callable[[Tensor], Tensor]) -> dict[str, float]:
    found = drift_from(look(change(images())), look(images()))
    return {name: ratio.value for name, ratio in found.items()}


def luma(pictures: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", pictures, LUMA)


def checkerboard(cell: int) -> Tensor:
    rows = torch.arange(SIZE) // cell
    return ((rows[:, None] + rows) % 2) * 2.0 - 1


def test_all_of_the_registry_is_measured_and_equal_looks_give_exactly_one() -> None:
    mine = look(images())
    assert tuple(mine.values) == DRIFT_METRICS
    assert all(values.shape == (PROMPTS,) for values in mine.values.values())
    found = drift_from(mine, look(images()))
    assert found == dict.fromkeys(DRIFT_METRICS, Ratio(1.0, 1.0, 1.0))


def test_halved_saturation_by_gray_is_a_half() -> None:
    def faded(pictures: Tensor) -> Tensor:
        gray = luma(pictures)[:, None]
        return gray + 0.5 * (pictures - gray)

    found = drift(faded)
    assert found["saturation"] == pytest.approx(0.5, abs=1e-12)
    assert found["brightness"] == pytest.approx(1, abs=1e-12)
    assert found["contrast"] == pytest.approx(1, abs=1e-12)


def test_halved_saturation_of_hsv_is_a_half() -> None:
    def faded(pictures: Tensor) -> Tensor:
        pixels = pictures.movedim(1, -1).reshape(-1, 3).tolist()
        halved = [(h, s / 2, v) for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in pixels)]
        flat = torch.tensor([colorsys.hsv_to_rgb(*pixel) for pixel in halved], dtype=torch.float64)
        return flat.reshape(pictures.movedim(1, -1).shape).movedim(-1, 1)

    assert drift(faded)["saturation"] == pytest.approx(0.5, abs=1e-12)


def test_saturation_is_hsvs_times_value() -> None:
    pixels = images().movedim(1, -1).reshape(-1, 3).tolist()
    chroma = [s * v for _, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in pixels)]
    expected = np.reshape(chroma, (PROMPTS, -1)).mean(1)
    np.testing.assert_allclose(look(images()).values["saturation"], expected)


def test_scaling_laws_of_brightness_and_contrast() -> None:
    darker = drift(lambda x: 0.5 * x)
    assert {name: darker[name] for name in darker if name != "latent_diversity"} == pytest.approx(
        {
            "saturation": 0.5,
            "contrast": 0.5,
            "brightness": 0.5,
            "sharpness": 0.25,
            "nyquist_energy": 0.25,
            "grid_energy": 0.25,
            "pixel_diversity": 0.5,
        }
    )
    assert darker["latent_diversity"] == 1
    flatter = drift(lambda x: 0.5 + 0.5 * (x - 0.5))
    mean = luma(images()).mean().item()
    assert flatter["contrast"] == pytest.approx(0.5)
    assert flatter["brightness"] == pytest.approx((0.5 + 0.5 * (mean - 0.5)) / mean)
    lighter = drift(lambda x: x + 0.1)
    assert lighter["brightness"] == pytest.approx((mean + 0.1) / mean)
    assert lighter.pop("brightness") > 1.1
    assert lighter == pytest.approx(dict.fromkeys(lighter, 1.0))


def test_brightness_and_contrast_are_those_of_rec_709() -> None:
    mine, light = look(images()), luma(images()).reshape(PROMPTS, SEEDS, -1).numpy()
    np.testing.assert_allclose(mine.values["brightness"], light.mean((1, 2)))
    np.testing.assert_allclose(mine.values["contrast"], light.std(2).mean(1))


def test_sharpness_is_the_laplacians_mean_square() -> None:
    kernel = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], float)
    squares = [np.square(convolve(x, kernel)[1:-1, 1:-1]).mean() for x in luma(images()).numpy()]
    expected = np.reshape(squares, (PROMPTS, SEEDS)).mean(1)
    np.testing.assert_allclose(look(images()).values["sharpness"], expected)


def test_energies_are_those_of_the_whole_spectrum() -> None:
    """One bin after the other, in a rectangle, by numpy's transform and the definition."""
    tall = images(2 * SIZE)[..., :SIZE]
    mine = look_of(tall, latents(), PROMPTS, PATCH)
    nyquist, grid = np.zeros(len(tall)), np.zeros(len(tall))
    spectrum = np.abs(np.fft.fft2(luma(tall).numpy()) / (2 * SIZE * SIZE)) ** 2
    for i, fy in enumerate(np.fft.fftfreq(2 * SIZE)):
        for j, fx in enumerate(np.fft.fftfreq(SIZE)):
            if max(abs(fx), abs(fy)) >= 0.45:
                nyquist += spectrum[:, i, j]
            harmonic = (fx * PATCH) % 1 == 0 and (fy * PATCH) % 1 == 0
            if harmonic and (fx, fy) != (0, 0):
                grid += spectrum[:, i, j]
    for name, energy in (("nyquist_energy", nyquist), ("grid_energy", grid)):
        assert energy.min() > 0
        expected = energy.reshape(PROMPTS, SEEDS).mean(1)
        np.testing.assert_allclose(mine.values[name], expected, rtol=1e-9)


def test_a_checkerboard_of_two_pixels_is_grid_and_not_nyquist() -> None:
    """Its period of 4 pixels divides the patch; its power is its amplitude's square."""
    before, after = look(images()), look(images() + 0.1 * checkerboard(2))
    found = drift_from(after, before)
    assert found["grid_energy"].value > 10
    assert found["nyquist_energy"].value == pytest.approx(1, abs=1e-9)
    # Up to the cross term with what the images themselves have at those frequencies.
    gained = after.values["grid_energy"] - before.values["grid_energy"]
    np.testing.assert_allclose(gained, 0.01, rtol=0.1)
    # Patches of 5 pixels do not see it: neither 1/4 nor 3/4 is a multiple of 1/5.
    wide = images(40)
    rows = torch.arange(40) // 2
    board = 0.1 * (((rows[:, None] + rows) % 2) * 2.0 - 1)
    other = drift_from(look(wide + board, patch=5), look(wide, patch=5))
    assert other["grid_energy"].value == pytest.approx(1, abs=1e-6)


def test_a_checkerboard_of_single_pixels_is_at_nyquist() -> None:
    before, after = look(images()), look(images() + 0.1 * checkerboard(1))
    assert drift_from(after, before)["nyquist_energy"].value > 10
    gained = after.values["nyquist_energy"] - before.values["nyquist_energy"]
    np.testing.assert_allclose(gained, 0.01, rtol=0.1)


def test_a_constant_offset_is_no_energy() -> None:
    found = drift(lambda x: x + 0.2)
    assert found["nyquist_energy"] == pytest.approx(1, abs=1e-9)
    assert found["grid_energy"] == pytest.approx(1, abs=1e-9)


def test_diversity_is_scipys_mean_distance_within_each_prompt() -> None:
    mine, pictures, codes = look(images()), images().numpy(), latents().double().numpy()
    for name, samples in (("pixel_diversity", pictures), ("latent_diversity", codes)):
        rows = samples.reshape(PROMPTS, SEEDS, -1)
        expected = [pdist(of_prompt).mean() / rows.shape[2] ** 0.5 for of_prompt in rows]
        np.testing.assert_allclose(mine.values[name], expected)


def test_duplicated_seeds_have_no_diversity_and_twice_the_distances_have_twice() -> None:
    def of(pictures: Tensor, codes: Tensor) -> dict[str, float]:
        found = drift_from(look(pictures, codes), look(images()))
        return {name: found[name].value for name in ("latent_diversity", "pixel_diversity")}

    first = torch.arange(PROMPTS * SEEDS) // SEEDS * SEEDS
    assert of(images()[first], latents()[first]) == dict.fromkeys(
        ("latent_diversity", "pixel_diversity"), 0.0
    )
    means = images().unflatten(0, (PROMPTS, SEEDS)).mean(1).repeat_interleave(SEEDS, 0)
    wider = of(means + 2 * (images() - means), 2 * latents() + 7)
    assert wider == pytest.approx(dict.fromkeys(wider, 2.0))


def test_prompts_apart_are_no_diversity_within_one() -> None:
    apart = latents() + 100 * (torch.arange(PROMPTS * SEEDS) // SEEDS)[:, None, None]
    found = drift_from(look(images(), apart), look(images()))
    assert found["latent_diversity"].value == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("prompts", [8, 40])
def test_intervals_cover_a_known_ratio(prompts: int) -> None:
    """Prompts differ in their level, students by a noisy factor of mean 0.8."""
    random, true, covered, trials = np.random.default_rng(5), 0.8, 0, 600
    for _ in range(trials):
        teacher = random.gamma(4, 0.1, prompts)
        student = teacher * random.normal(true, 0.15, prompts) + random.normal(0, 0.02, prompts)
        looks = [Look(dict.fromkeys(DRIFT_METRICS, values)) for values in (student, teacher)]
        found = drift_from(*looks)["brightness"]
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        covered += found.low <= true <= found.high
    assert 0.90 <= covered / trials <= 0.99


def test_at_equal_levels_the_interval_is_students_of_the_mean() -> None:
    random = np.random.default_rng(7)
    student = random.normal(3.0, 0.2, 9)
    teacher = Look(dict.fromkeys(DRIFT_METRICS, np.full(9, 2.0)))
    found = drift_from(Look(dict.fromkeys(DRIFT_METRICS, student)), teacher)["contrast"]
    low, high = stats.t.interval(0.95, 8, student.mean(), stats.sem(student))
    assert (found.low, found.high) == pytest.approx((low / 2, high / 2))


def test_one_prompt_has_no_interval() -> None:
    one = Look({name: values[:1] for name, values in look(images()).values.items()})
    assert drift_from(one, one) == dict.fromkeys(DRIFT_METRICS, Ratio(1.0, None, None))


def test_prompts_weigh_by_the_teachers_level() -> None:
    """A ratio of sums: a prompt that is all gray at the teacher decides nothing."""
    teacher = Look(dict.fromkeys(DRIFT_METRICS, np.array([1.0, 0.0])))
    student = Look(dict.fromkeys(DRIFT_METRICS, np.array([0.5, 1e-3])))
    assert drift_from(student, teacher)["saturation"].value == pytest.approx(0.501)


def test_chunks_of_whole_prompts_give_the_same_look() -> None:
    whole = look(images())
    parts = [
        look_of(images()[i : i + SEEDS], latents()[i : i + SEEDS], 1, PATCH)
        for i in range(0, PROMPTS * SEEDS, SEEDS)
    ]
    assert Look.join(parts).as_dict() == whole.as_dict()


def test_a_look_survives_json() -> None:
    mine = look(images())
    again = Look.from_dict(json.loads(json.dumps(mine.as_dict())))
    assert again.as_dict() == mine.as_dict()
    assert len(again) == PROMPTS
    damaged = mine.as_dict()
    for wrong in (
        {**damaged, "contrast": damaged["contrast"][:-1]},
        {**damaged, "contrast": [float("nan")] * PROMPTS},
        {**damaged, "contrast": damaged["contrast"][0]},
        {name: values for name, values in damaged.items() if name != "contrast"},
        {name: [] for name in damaged},
    ):
        with pytest.raises(ValueError, match=r"^a look has "):
            Look.from_dict(wrong)


def test_what_the_teacher_has_not_is_left_out_and_told() -> None:
    """Gray float32 images, whose channels differ by rounding alone."""
    gray = luma(images())[:, None].expand(-1, 3, -1, -1).float().clone()
    gray[:, 0] = torch.nextafter(gray[:, 0], torch.tensor(1.0))
    teacher = look(gray)
    assert teacher.blank == ("saturation",)
    found = drift_from(look(images()), teacher)
    assert tuple(found) == tuple(name for name in DRIFT_METRICS if name != "saturation")
    flat = look(torch.full_like(images(), 0.3).float(), torch.zeros(PROMPTS * SEEDS, 4))
    assert flat.blank == tuple(name for name in DRIFT_METRICS if name != "brightness")
    # What a student lacks is a result, not a gap.
    assert drift_from(flat, look(images()))["saturation"].value == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_have_no_look(value: float) -> None:
    broken, codes = images(), latents()
    broken[SEEDS + 1, 2, 3, 4] = value
    with pytest.raises(NotFiniteError, match="prompt 2 of 3"):
        look(broken)
    codes[0, 0, 0] = value
    with pytest.raises(NotFiniteError, match="prompt 1 of 3"):
        look(images(), codes)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(RequestError, match=r"shape \(B, 3, H, W\), not \(12, 1, 32, 32\)"):
        look(images()[:, :1])
    with pytest.raises(RequestError, match="12 images have 3 latents"):
        look(images(), latents()[:3])
    with pytest.raises(RequestError, match="12 samples are of 5 prompts"):
        look_of(images(), latents(), 5, PATCH)
    with pytest.raises(RequestError, match="at least 2: 12 samples are of 12 prompts"):
        look_of(images(), latents(), 12, PATCH)
    with pytest.raises(RequestError, match="32 x 32 have no whole patches of 5"):
        look(images(), patch=5)
    mine = look(images())
    with pytest.raises(RequestError, match="student has 3, the teacher 6"):
        drift_from(mine, Look.join([mine, mine]))
