"""The yardsticks of scenes, against scenes that are drawn wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.data.scenes import COLORS, SHAPES, SKILLS, Placed, Scenes, parse, place, render
from workbench.data.written import write_folder
from workbench.errors import RequestError, WorkbenchError
from workbench.evaluation import FeatureExtractors, make_metrics
from workbench.evaluation.catalog import SAMPLE_METRICS
from workbench.evaluation.design import Design
from workbench.evaluation.evaluator import Evaluator
from workbench.evaluation.frechet import CentredRows, FeatureStatistics, frechet_distance
from workbench.evaluation.intervals import interval
from workbench.evaluation.networks import WeightFiles
from workbench.evaluation.reference_build import BuildRequest, build_reference
from workbench.evaluation.references import BundledReference
from workbench.evaluation.scenes.composition import CompositionJudge, CompositionMetric, is_right
from workbench.evaluation.scenes.detector import WEIGHTS, Detected, SceneDetector, load_detector
from workbench.evaluation.scenes.detector_training import (
    DetectorRecipe,
    accuracy,
    train_detector,
    training_batch,
)
from workbench.evaluation.scenes.spread import (
    SpreadJudge,
    SpreadMetric,
    asked_by,
    kind_of,
    true_variances,
)
from workbench.flow.noise import NoiseSource
from workbench.metrics import ACCURACY
from workbench.workspace import Workspace

ALL_COMPOSITION = ("composition", *(f"composition_{skill}" for skill in SKILLS))
UNSEEN = Scenes("scenes-val", count=500, seed=1)
_COLOR_NAMES = list(COLORS)


@pytest.fixture(scope="module")
def detector() -> SceneDetector:
    return load_detector()


@pytest.fixture(scope="module")
def extractors(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractors:
    place_ = tmp_path_factory.mktemp("scenes")
    return FeatureExtractors(place_, WeightFiles(place_, {}), torch.device("cpu"))


def shown(placed: Placed) -> Detected:
    """What a faultless detector says of an object."""
    color = _COLOR_NAMES.index(placed.color)
    return Detected(SHAPES.index(placed.shape), color, placed.x, placed.y, placed.radius)


def test_the_shipped_detector_finds_all_that_unseen_scenes_show(detector: SceneDetector) -> None:
    found = accuracy(detector, [scene.objects for scene in UNSEEN.scenes])
    assert found >= 0.98
    assert detector.accuracy == pytest.approx(found, abs=0.01)
    held_out = Scenes("some", count=200, seed=2, held_out=True)
    scenes = [scene.objects for scene in held_out.scenes]
    assert accuracy(detector, scenes) >= 0.98
    assert accuracy(detector, scenes, side=64) >= 0.98
    assert WEIGHTS.stat().st_size <= 2**20


def test_spoiled_shapes_do_not_pass(detector: SceneDetector) -> None:
    """Scenes of which every object is blurred, half erased or a mixture: few are found."""
    recipe = DetectorRecipe(spoiled=1.0, batch_size=200)
    images, kept = training_batch(recipe, NoiseSource(9), step=10**6)
    assert not any(kept)
    drawn = sum(len(found) for found in detector.detect(images))
    clean = sum(len(scene.objects) for scene in UNSEEN.scenes[:200])
    assert drawn / clean < 0.25


def test_training_is_the_same_twice_and_learns() -> None:
    recipe, losses = DetectorRecipe(steps=12, batch_size=8), []
    one = train_detector(recipe, lambda step, steps, loss: losses.append(loss))
    assert train_detector(recipe).fingerprint == one.fingerprint
    assert losses[-1] < losses[0]
    other = train_detector(replace(recipe, seed=71))
    assert other.fingerprint != one.fingerprint


def test_weights_that_are_altered_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "detector.safetensors"
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WorkbenchError, match="is not the one that was trained"):
        load_detector(file)
    with pytest.raises(WorkbenchError, match="cannot be read"):
        load_detector(tmp_path / "none.safetensors")


RED_STAR, BLUE_STAR = Placed("star", "red", 0.3, 0.3, 0.16), Placed("star", "blue", 0.7, 0.7, 0.16)
RED_RING, LARGE_RED_STAR = Placed("ring", "red", 0.7, 0.3, 0.16), replace(RED_STAR, radius=0.3)


@pytest.mark.parametrize(
    ("prompt", "objects", "right"),
    [
        ("a star", [RED_STAR], True),
        ("a star", [RED_STAR, BLUE_STAR, RED_RING], True),  # as GenEval: more may be
        ("a star", [RED_RING], False),
        ("a star", [], False),
        ("a blue star", [RED_STAR], False),
        ("a small star", [RED_STAR], True),
        ("a large star", [RED_STAR], False),
        ("a large red star", [LARGE_RED_STAR], True),
        ("two stars", [RED_STAR, BLUE_STAR], True),
        ("two stars", [RED_STAR, BLUE_STAR, replace(RED_STAR, x=0.7)], False),  # counting is strict
        ("two stars", [RED_STAR, BLUE_STAR, RED_RING], True),
        ("two red stars", [RED_STAR, BLUE_STAR], False),
        ("a star and a ring", [RED_RING, BLUE_STAR], True),
        ("a red star and a blue star", [RED_STAR, RED_STAR], False),
        ("a red star, a blue star and a red ring", [RED_RING, BLUE_STAR, RED_STAR], True),
        # Each by an object of its own: one red star is not both.
        ("a star and a red star", [RED_STAR, RED_RING], False),
        ("a star and a red star", [RED_STAR, BLUE_STAR], True),
        ("a red star left of a red ring", [RED_RING, RED_STAR], True),
        ("a red star right of a red ring", [RED_RING, RED_STAR], False),
        ("a red ring right of a red star", [RED_RING, RED_STAR], True),
        ("a red star above a blue star", [RED_STAR, BLUE_STAR], True),
        ("a red star below a blue star", [RED_STAR, BLUE_STAR], False),
        ("a star above a ring", [RED_STAR, replace(RED_RING, y=0.34)], False),  # within the margin
    ],
)
def test_what_is_right(prompt: str, objects: Sequence[Placed], right: bool) -> None:
    assert is_right(parse(prompt), [shown(one) for one in objects]) is right


def shares(
    change: Callable[[tuple[Placed, ...]], Sequence[Placed]], detector: SceneDetector
) -> dict[str, float]:
    """The scores of scenes that are drawn after a change, with their true captions.

    Prompts of counting and position that name colors are left out, so that each change is of one
    skill.
    """
    scenes = [
        scene
        for scene in UNSEEN.scenes
        if (request := parse(scene.caption)).skill in ("colors", "attribution")
        or not any(asked.color for asked in request.objects)
    ]
    images = render([change(scene.objects) for scene in scenes], 32)
    rows = CompositionJudge(detector).extract(images, [scene.caption for scene in scenes]).numpy()
    return {
        skill: CompositionMetric(CompositionJudge(detector, skill), "").compute(rows)
        for skill in SKILLS
    } | {"all": CompositionMetric(CompositionJudge(detector), "").compute(rows)}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda objects: objects, ()),
        (
            lambda objects: [
                replace(one, color=_COLOR_NAMES[(_COLOR_NAMES.index(one.color) + 1) % 6])
                for one in objects
            ],
            ("colors", "attribution"),
        ),
        (
            lambda objects: [replace(one, x=1 - one.x, y=1 - one.y) for one in objects],
            ("position",),
        ),
        (lambda objects: objects[1:], SKILLS),
    ],
    ids=["as asked", "wrong colors", "wrong positions", "one missing"],
)
def test_a_change_lowers_its_own_skills_alone(
    change: Callable[[tuple[Placed, ...]], Sequence[Placed]],
    wrong: Sequence[str],
    detector: SceneDetector,
) -> None:
    found = shares(change, detector)
    for skill in SKILLS:
        if skill in wrong:
            assert found[skill] < 0.05, skill
        else:
            assert found[skill] > 0.97, skill
    assert found["all"] == pytest.approx(np.mean([found[skill] for skill in SKILLS]))
    assert found["all"] == pytest.approx(1 - len(wrong) / len(SKILLS), abs=0.02)


def test_skills_that_no_prompt_asks_for_are_left_out_of_the_mean(detector: SceneDetector) -> None:
    metric = CompositionMetric(CompositionJudge(detector), "composition")
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 3]], np.float32)
    assert metric.compute(rows) == 0.5


@pytest.mark.parametrize("repeated", [True, False])
def test_the_error_of_composition_is_how_far_fresh_samples_are_apart(
    detector: SceneDetector, repeated: bool
) -> None:
    random_ = np.random.default_rng(3)
    metric = CompositionMetric(CompositionJudge(detector), "composition")
    chances = np.array([0.9, 0.6, 0.3, 0.8, 0.5, 0.2])
    scores, errors = [], []
    for _ in range(400):
        skills = np.arange(240) % 6 if repeated else random_.integers(0, 6, 240)
        right = random_.random(240) < chances[skills]
        rows = np.stack((right, skills), axis=1).astype(np.float32)
        design = Design(skills if repeated else np.arange(240))
        scores.append(metric.compute(rows))
        errors.append(metric.error(rows, design))
    assert np.mean(errors) == pytest.approx(np.std(scores), rel=0.12)
    found = interval(metric, rows, scores[-1], design)
    assert found.low < scores[-1] < found.high


def test_a_skill_of_few_samples_is_as_sure_as_so_few(detector: SceneDetector) -> None:
    rows = np.array([[1, 0]] * 20 + [[1, 3]] * 180, np.float32)
    design = Design(np.arange(200))
    lows = {}
    for skill in ("single", "colors", None):
        metric = CompositionMetric(CompositionJudge(detector, skill), "composition")
        lows[skill] = interval(metric, rows, 1.0, design).low
    alone = Design(np.arange(20))
    metric = CompositionMetric(CompositionJudge(detector, "single"), "composition")
    assert lows["single"] == pytest.approx(interval(metric, rows[:20], 1.0, alone).low)
    assert lows["single"] < 0.85 < lows[None] < lows["colors"]


def test_prompts_that_cannot_be_judged_are_refused_in_one_line(
    detector: SceneDetector, extractors: FeatureExtractors
) -> None:
    for name in ("composition", "spread"):
        metrics = make_metrics([name], None, extractors)
        with pytest.raises(RequestError, match=f"{name} cannot judge by.*'two dogs'") as caught:
            Evaluator(metrics, ("two dogs", "a red star"))
        assert "\n" not in str(caught.value)
    metrics = make_metrics(["composition_two"], None, extractors)
    with pytest.raises(RequestError, match="None of them is of the skill two; they are of colors"):
        Evaluator(metrics, ("a red star", "a picture of a red star"))
    metrics = make_metrics(["spread"], None, extractors)
    with pytest.raises(RequestError, match="No two of them ask for the same single object"):
        Evaluator(metrics, ("a red star", "a blue star"))


def test_all_scores_of_composition_share_one_look(extractors: FeatureExtractors) -> None:
    metrics = make_metrics(ALL_COMPOSITION, None, extractors)
    assert len({metric.extractor.key for metric in metrics}) == 1
    assert {metric.name for metric in metrics} == set(ALL_COMPOSITION) < set(SAMPLE_METRICS)
    for metric in metrics:
        assert float(metric.ingredients[ACCURACY]) >= 0.98


def single_rows(
    detector: SceneDetector, prompts: Sequence[str], seed: int, truth: bool = False
) -> np.ndarray:
    """What the judge sees in fresh scenes, drawn, or by a faultless detector."""
    rng = random.Random(seed)
    scenes = [place(parse(prompt), rng) for prompt in prompts]
    if not truth:
        return SpreadJudge(detector).extract(render(scenes, 32), prompts).numpy()
    rows = [(kind_of(parse(p)), 1.0, *_seen(*s)) for p, s in zip(prompts, scenes, strict=True)]
    return np.array(rows, np.float32)


def _seen(placed: Placed) -> tuple[float, float, float, float]:
    return placed.x, placed.y, placed.radius, float(_COLOR_NAMES.index(placed.color))


SINGLE = (
    "a star",
    "a picture of a small ring",
    "a red cross",
    "a large blue star",
    "a drawing of a star",
)


def test_real_scenes_have_the_truths_spread(detector: SceneDetector) -> None:
    metric = SpreadMetric(SpreadJudge(detector), "spread")
    prompts = SINGLE * 80
    rows = single_rows(detector, prompts, seed=0)
    value, error = metric.compute(rows), metric.error(rows, Design(prompts))
    assert error < 0.04
    assert value == pytest.approx(1.0, abs=3 * error)


def test_duplicates_in_half_of_all_pairs_halve_the_spread(detector: SceneDetector) -> None:
    metric = SpreadMetric(SpreadJudge(detector), "spread")
    # The colors of four prompts are open alike, and all have the same places.
    prompts = [f"a {shape}" for shape in SHAPES[:4]] * 2
    requests = [parse(prompt) for prompt in prompts]
    first, second = (Placed("star", "red", 0.4, 0.5, 0.2), Placed("star", "white", 0.6, 0.45, 0.25))
    pairs = np.array(
        [
            (kind_of(request), 1.0, *_seen(first if place < 4 else second))
            for place, request in enumerate(requests)
        ],
        np.float32,
    )
    whole = metric.compute(pairs)
    duplicated = pairs.copy()
    duplicated[4:6, 2:] = pairs[0:2, 2:]
    assert metric.compute(duplicated) == pytest.approx(whole / 2)
    duplicated[6:, 2:] = pairs[2:4, 2:]
    assert metric.compute(duplicated) == 0.0


def test_what_is_not_found_is_left_out_of_the_spread(detector: SceneDetector) -> None:
    metric = SpreadMetric(SpreadJudge(detector), "spread")
    rows = single_rows(detector, SINGLE * 10, seed=1, truth=True)
    lost = np.concatenate((rows, rows))
    lost[len(rows) :, 1:] = 0.0
    assert metric.compute(lost) == metric.compute(rows)
    lost[:, 1] = 0.0
    assert (metric.compute(lost), metric.error(lost, Design(SINGLE * 20))) == (0.0, 0.0)
    # Two objects are no single one; another shape is not found.
    prompts = ["a star and a ring", "a cross", "a star"]
    images = render([[RED_STAR, RED_RING]] * 3, 32)
    seen = SpreadJudge(detector).extract(images, prompts)
    assert seen[:, 1].tolist() == [0.0, 0.0, 1.0]
    assert seen[0, 0] == -1
    assert seen[2, 2:].tolist() == pytest.approx([0.3, 0.3, 0.16, 0.0], abs=0.02)


@pytest.mark.parametrize("each", [2, 3, 12])
def test_the_error_of_the_spread_is_how_far_fresh_scenes_are_apart(
    detector: SceneDetector, each: int
) -> None:
    metric = SpreadMetric(SpreadJudge(detector), "spread")
    prompts = [
        f"a {size}{color}{shape}"
        for shape in SHAPES[:4]
        for color in ("", "red ", "blue ")
        for size in ("", "small ")
    ] * each
    rows = [single_rows(detector, prompts, seed, truth=True) for seed in range(250)]
    scores = np.array([metric.compute(one) for one in rows])
    errors = np.array([metric.error(one, Design(prompts)) for one in rows])
    assert scores.mean() == pytest.approx(1.0, abs=4 * scores.std() / 250**0.5)
    assert np.sqrt((errors**2).mean()) == pytest.approx(scores.std(), rel=0.15)


@pytest.mark.parametrize("prompt", ["a star", "a small red star", "a large ring"])
def test_the_truths_variances_are_those_of_draws(prompt: str) -> None:
    request, rng = parse(prompt), random.Random(4)
    seen = np.array([_seen(*place(request, rng)) for _ in range(8000)])
    found = [*seen[:, :3].var(axis=0), 1 - sum((seen[:, 3] == c).mean() ** 2 for c in range(6))]
    assert found == pytest.approx(true_variances(*request.objects), rel=0.04)
    assert asked_by(kind_of(request)) == request.objects[0]


def test_distance_orders_what_the_eye_orders(detector: SceneDetector) -> None:
    images = Scenes("some", count=1200, seed=5).images(32)
    real = FeatureStatistics.from_features(detector.features(images[:600]).numpy())

    def distance(some: torch.Tensor) -> float:
        return frechet_distance(CentredRows(detector.features(some).numpy()), real)

    other = images[600:]
    noise = NoiseSource(0).normal("noise", 0, 1, other.shape)[0]
    blurred = torch.nn.functional.avg_pool2d(other, 5, stride=1, padding=2)
    fresh, noisy = distance(other), distance((other + 0.1 * noise).clamp(0, 1))
    assert fresh < 0.08
    assert fresh < noisy / 2
    assert noisy < distance((other + 0.3 * noise).clamp(0, 1))
    assert fresh < distance(blurred) / 5
    assert distance(other[:, [1, 2, 0]]) > 2 * fresh  # other colors


def test_a_folder_of_scenes_is_a_reference_like_the_bundled_one(
    tmp_path: Path, extractors: FeatureExtractors, detector: SceneDetector
) -> None:
    folder = tmp_path / "images"
    write_folder("scenes-val", folder, side=32, images=200)
    captions = folder / "captions.jsonl"
    request = BuildRequest("mine", folder, captions, 32, features=("scenes",))
    built = build_reference(Workspace(tmp_path), request, extractors)
    bundled = BundledReference(Scenes("scenes-val", count=200, seed=1))
    assert built.captions == tuple(scene.caption for scene in bundled.data.scenes)  # type: ignore[attr-defined]
    images = Scenes("other", count=150, seed=6).images(32)
    values = []
    for reference in (built, bundled):
        (fid,) = make_metrics(["fid"], reference, extractors)
        assert reference.network == "scenes"
        values.append(fid.compute(fid.extractor.extract(images, [""] * 150).numpy()))
    assert values[0] == pytest.approx(values[1], rel=0.01)  # the files have 8 bits
