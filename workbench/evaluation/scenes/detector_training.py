"""How the detector of scenes learned: scenes drawn on the way, some of their objects spoiled.

A judge that has seen perfect shapes alone takes any blob for one of them. Some objects are
therefore spoiled and labeled as none: blurred until no corner is left, half erased, a mean of two
shapes, or a mean of two colors. What a good sampler may do to an image is not held against it: all
images have a little blur, noise and other contrast. Every pair of color and shape occurs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from workbench.data.scenes import BACKGROUND, COLORS, SHAPES, Placed, draw, render
from workbench.evaluation.scenes.detector import (
    CELLS,
    PIXELS,
    Cells,
    Detected,
    SceneDetector,
    cell_middles,
)
from workbench.evaluation.threads import one_thread
from workbench.flow.noise import NoiseSource

ACCURATE = 0.5
"""How far a found center may lie off, in radii."""

_NEAR = 0.094
"""Cells whose middle is nearer than this to a center tell of its object; one at least is."""


@dataclass(frozen=True)
class DetectorRecipe:
    """Everything that decides the weights."""

    steps: int = 2600
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    spoiled: float = 0.2
    held_out: float = 0.4
    seed: int = 70


def train_detector(
    recipe: DetectorRecipe, show: Callable[[int, int, float], None] = lambda *_: None
) -> SceneDetector:
    """Train on scenes of the recipe's own seed. Deterministic: own random numbers, one thread.

    Args:
        show: told step, steps and loss.
    """
    noise = NoiseSource(recipe.seed)
    detector = SceneDetector()
    with one_thread():
        _initialize(detector, noise)
        optimizer = torch.optim.AdamW(
            detector.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
        )
        for step in range(recipe.steps):
            images, objects = training_batch(recipe, noise, step)
            loss = detection_loss(detector(images), objects)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            show(step + 1, recipe.steps, loss.item())
    return detector.freeze()


def training_batch(
    recipe: DetectorRecipe, noise: NoiseSource, step: int
) -> tuple[Tensor, list[list[Placed]]]:
    """Images (B, 3, 32, 32), and of each the objects that are not spoiled."""
    rng = random.Random(f"detector/{recipe.seed}/{step}")
    scenes = [
        draw(rng, held_out=rng.random() < recipe.held_out).objects for _ in range(recipe.batch_size)
    ]
    owners = [place for place, objects in enumerate(scenes) for _ in objects]
    placed = [one for objects in scenes for one in objects]
    spoiled = [rng.random() < recipe.spoiled for _ in placed]
    ground = torch.tensor(BACKGROUND, dtype=torch.float32).div(255)[:, None, None]
    drawn = render([[one] for one in placed], PIXELS) - ground
    for place, one in enumerate(placed):
        if spoiled[place]:
            drawn[place] = _spoiled(drawn[place], one, rng)
    images = ground.expand(len(scenes), 3, PIXELS, PIXELS).clone()
    images.index_add_(0, torch.tensor(owners), drawn)
    kept: list[list[Placed]] = [[] for _ in scenes]
    for owner, one, bad in zip(owners, placed, spoiled, strict=True):
        if not bad:
            kept[owner].append(one)
    return _as_sampled(images, rng, noise, step), kept


def _spoiled(drawn: Tensor, placed: Placed, rng: random.Random) -> Tensor:
    """An object's own image (3, 32, 32) over black, as it must not be taken for an object."""
    ground = torch.tensor(BACKGROUND, dtype=torch.float32).div(255)[:, None, None]
    match rng.choice(("blur", "erase", "shape", "color")):
        case "blur":
            return _blurred(drawn[None], rng.uniform(0.5, 0.9) * placed.radius * PIXELS)[0]
        case "erase":
            angle = torch.tensor(rng.uniform(0, 6.2832))
            middle = (torch.arange(PIXELS) + 0.5) / PIXELS
            x, y = middle[None, :] - placed.x, middle[:, None] - placed.y
            return drawn * (x * angle.cos() + y * angle.sin() > rng.uniform(-0.15, 0.2) * 0.3)
        case "shape":
            shape = rng.choice([shape for shape in SHAPES if shape != placed.shape])
            other = replace(placed, shape=shape)
        case _:
            other = replace(placed, color=rng.choice([c for c in COLORS if c != placed.color]))
    share = rng.uniform(0.4, 0.6)
    return (1 - share) * drawn + share * (render([[other]], PIXELS)[0] - ground)


def _as_sampled(images: Tensor, rng: random.Random, noise: NoiseSource, step: int) -> Tensor:
    """A little blur, noise and other contrast, as a sampler may leave them."""
    count = len(images)
    part = rng.randrange(count)
    images = torch.cat((_blurred(images[:part], rng.uniform(0.2, 0.9)), images[part:]))
    random_numbers = noise.normal("detector/noise", step, 1, images.shape)[0]
    strength = torch.tensor([rng.choice((0.0, rng.uniform(0, 0.08))) for _ in range(count)])
    contrast = torch.tensor([rng.uniform(0.85, 1.08) for _ in range(count)])
    tint = torch.tensor([[rng.uniform(-0.04, 0.04) for _ in range(3)] for _ in range(count)])
    images = images * contrast[:, None, None, None] + tint[:, :, None, None]
    return (images + strength[:, None, None, None] * random_numbers).clamp(0, 1)


def _blurred(images: Tensor, deviation: float) -> Tensor:
    """Gaussian blur of images (B, 3, H, W) by so many pixels."""
    if not len(images):
        return images
    reach = int(3 * deviation) + 1
    kernel = (-(torch.arange(-reach, reach + 1) ** 2) / (2 * deviation**2)).exp()
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = nn.functional.pad(images, (reach,) * 4, mode="replicate")
    across = nn.functional.conv2d(padded, kernel, groups=3)
    return nn.functional.conv2d(across, kernel.transpose(2, 3), groups=3)


def detection_loss(cells: Cells, objects: Sequence[Sequence[Placed]]) -> Tensor:
    """Whether an object's center is near, over all cells; what it is, over those near one."""
    owners = torch.tensor([place for place, row in enumerate(objects) for _ in row])
    flat = [one for row in objects for one in row]
    centers = torch.tensor([(one.x, one.y) for one in flat])
    distance = (cell_middles()[None] - centers[:, :, None, None]).norm(dim=1)
    which, row, column = (distance < _NEAR).nonzero(as_tuple=True)
    image = owners[which]
    target = torch.zeros_like(cells.present)
    target[image, row, column] = 1.0
    shapes = torch.tensor([SHAPES.index(one.shape) for one in flat])[which]
    colors = torch.tensor([list(COLORS).index(one.color) for one in flat])[which]
    radii = torch.tensor([one.radius for one in flat])[which]
    found = cells.centers[image, :, row, column]
    off = (found - centers[which]).abs().mean() + (cells.radii[image, row, column] - radii).abs()
    classes = nn.functional.cross_entropy(
        cells.shapes[image, :, row, column], shapes
    ) + nn.functional.cross_entropy(cells.colors[image, :, row, column], colors)
    present = nn.functional.binary_cross_entropy_with_logits(cells.present, target)
    return 10.0 * present + classes + CELLS * off.mean()


def is_exact(found: Sequence[Detected], placed: Sequence[Placed]) -> bool:
    """Whether these are the objects that are there, their centers within half a radius."""
    left = list(placed)
    for one in found:
        same = [
            other
            for other in left
            if (SHAPES[one.shape], list(COLORS)[one.color]) == (other.shape, other.color)
            and (one.x - other.x) ** 2 + (one.y - other.y) ** 2 < (ACCURATE * other.radius) ** 2
        ]
        if not same:
            return False
        left.remove(same[0])
    return not left


def accuracy(detector: SceneDetector, scenes: Sequence[Sequence[Placed]], side: int = 32) -> float:
    """Share of scenes in which the detector finds exactly what is there."""
    found = detector.detect(render(scenes, side))
    return sum(map(is_exact, found, scenes)) / len(scenes)


def _initialize(detector: SceneDetector, noise: NoiseSource) -> None:
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if parameter.ndim > 1:
                values = noise.normal(f"detector/{name}", 0, 1, parameter.shape)[0]
                parameter.copy_(values * (2.0 / parameter[0].numel()) ** 0.5)
            else:
                parameter.fill_(1.0 if _is_scale(detector, name) else 0.0)
        detector.head.weight.mul_(0.1)


def _is_scale(detector: SceneDetector, name: str) -> bool:
    owner = detector.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.GroupNorm) and name.endswith(".weight")
