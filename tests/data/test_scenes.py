"""Scenes: captions are true, draws have the distribution that is claimed, pixels are areas."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
import torch

from workbench.data.bundled import BUNDLED
from workbench.data.scenes import (
    BACKGROUND,
    COLORS,
    HELD_OUT,
    SHAPES,
    SKILLS,
    Placed,
    Request,
    Scene,
    Scenes,
    allowed_colors,
    parse,
    place,
    render,
)
from workbench.errors import RequestError

DRAWN = Scenes("some", count=3000, seed=7)


def shows(scene: Scene, request: Request) -> bool:
    """Whether a scene is what a request asks for; written without the code that places objects."""
    wanted: Counter[tuple[str, str | None]] = Counter()
    for asked in request.objects:
        wanted[asked.shape, asked.color] += asked.count
    left = list(scene.objects)
    for (shape, color), count in sorted(wanted.items(), key=lambda item: item[0][1] is None):
        for _ in range(count):
            fitting = [o for o in left if o.shape == shape and color in (None, o.color)]
            if not fitting:
                return False
            left.remove(fitting[0])
    if left:
        return False
    if request.relation is not None:
        first, second = scene.objects
        apart = (second.x - first.x) if request.relation == "left of" else (second.y - first.y)
        return first.shape == request.objects[0].shape and apart >= first.radius + second.radius
    return True


def test_captions_are_true_and_are_understood() -> None:
    requests = [parse(scene.caption) for scene in DRAWN.scenes]
    assert all(shows(s, r) for s, r in zip(DRAWN.scenes, requests, strict=True))
    skills = Counter(request.skill for request in requests)
    assert set(skills) == set(SKILLS)
    assert min(skills.values()) > 150
    assert Counter(request.count for request in requests).keys() == {1, 2, 3}


def test_held_out_pairs_occur_in_their_own_scenes_alone() -> None:
    pairs = {(o.color, o.shape) for scene in DRAWN.scenes for o in scene.objects}
    assert len(pairs) == len(SHAPES) * len(COLORS) - len(HELD_OUT)
    assert not pairs & HELD_OUT
    for scene in Scenes("others", count=200, seed=7, held_out=True).scenes:
        assert {(o.color, o.shape) for o in scene.objects} & HELD_OUT


def test_objects_lie_in_the_image_and_apart() -> None:
    for scene in DRAWN.scenes:
        for number, one in enumerate(scene.objects):
            assert one.radius < min(one.x, one.y)
            assert max(one.x, one.y) < 1 - one.radius
            for other in scene.objects[:number]:
                apart = math.dist((one.x, one.y), (other.x, other.y))
                assert apart >= one.radius + other.radius


def test_a_prompt_s_scenes_have_the_distribution_that_is_claimed() -> None:
    random_ = random.Random(0)
    drawn = [place(parse("a small star"), random_)[0] for _ in range(4000)]
    radii = torch.tensor([o.radius for o in drawn])
    assert radii.min() >= 0.15
    assert radii.max() <= 0.22
    assert radii.std().item() == pytest.approx(0.07 / math.sqrt(12), rel=0.05)
    counts = Counter(o.color for o in drawn)
    assert set(counts) == set(allowed_colors("star"))
    assert "green" not in counts
    assert max(counts.values()) / min(counts.values()) < 1.25
    assert len({o.color for o in place(parse("three stars"), random_)}) == 1


def test_any_number_of_scenes_begins_alike_and_seeds_differ() -> None:
    few = Scenes("some", count=20, seed=7)
    assert few.scenes == DRAWN.scenes[:20]
    assert Scenes("some", count=20, seed=8).scenes != few.scenes
    validation, training = BUNDLED["scenes-val"], BUNDLED["scenes"]
    assert isinstance(validation, Scenes)
    assert isinstance(training, Scenes)
    drawn = {scene.objects for scene in training.scenes}
    assert not any(scene.objects in drawn for scene in validation.scenes)
    captions = [few.prompts[int(label)] for label in few.labels]
    assert captions == [scene.caption for scene in few.scenes]


AREAS = {
    "circle": math.pi * 0.92**2,
    "ring": math.pi * (0.96**2 - 0.56**2),
    "square": 1.6**2,
    "triangle": 1.9 * 1.7 / 2,
    "cross": 4 * 0.33 * 0.97 * 2 - 4 * 0.33**2,
    "star": 10 * 0.5 * 1.0 * 0.45 * math.sin(math.pi / 5),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [32, 64])
def test_pixels_are_covered_by_areas(shape: str, side: int) -> None:
    shape_ = next(name for name in SHAPES if name == shape)
    radius = 0.3
    image = render([[Placed(shape_, "white", 0.47, 0.52, radius)]], side)[0, 0]
    ground, white = BACKGROUND[0] / 255, COLORS["white"][0] / 255
    cover = (image - ground) / (white - ground)
    assert cover.min() >= 0
    assert cover.max() <= 1 + 1e-6
    assert cover.mean().item() == pytest.approx(AREAS[shape] * radius**2, rel=0.03)
    # Twice the resolution averages to the same picture: no shift by half a pixel.
    fine = render([[Placed(shape_, "white", 0.47, 0.52, radius)]], 2 * side)[:1, :1]
    again = torch.nn.functional.avg_pool2d(fine, 2)[0, 0]
    assert (again - image).abs().mean() < 0.01


def test_colors_and_places_are_those_of_the_objects() -> None:
    image = render([[Placed("circle", "red", 0.25, 0.75, 0.2)]], 32)[0]
    assert (image[:, 24, 8] * 255).round().tolist() == list(COLORS["red"])
    assert (image[:, 8, 24] * 255).round().tolist() == list(BACKGROUND)


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "star", "a dog", "a pink star", "two star", "a stars", "four stars"),
        *("two stars left of a ring", "two stars and a ring", "small red star", "two small stars"),
        *("a star, a ring, a cross and a circle", "a large star and a ring"),
        "a small star left of a ring",
    ],
)
def test_what_scenes_do_not_know_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="is of no scene"):
        parse(prompt)


def test_wordings_ask_for_the_same() -> None:
    wanted = parse("a red star left of a blue ring")
    for prompt in (
        "A picture of a red star to the left of a blue ring.",
        "a drawing of a blue ring right of a red star",
        "a blue ring to the right of a red star",
    ):
        assert parse(prompt) == wanted
    assert parse("a star below a ring").objects[0].shape == "ring"
    assert parse("a red ring, a blue star and a green cross").skill == "attribution"


def test_corners_that_touch_stay_within_an_image() -> None:
    touching = [
        Placed("square", "white", 0.5, 0.5, 0.1735),
        Placed("square", "white", 0.75, 0.75, 0.15),
    ]
    assert render([touching], 32).max() <= 1
