"""Scenes: colored shapes on black with captions that are true of them, drawn on demand.

A scene is drawn from what its caption asks for, so the distribution of images given a prompt is
known exactly. Skills are GenEval's (Ghosh et al. 2023, arXiv 2310.11513) in miniature. Some pairs
of color and shape never occur in ``scenes``: ``scenes-held-out`` consists of them.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import torch
from torch import Tensor

from workbench.data.labeled import LabeledImages
from workbench.errors import RequestError

Shape = Literal["circle", "square", "triangle", "ring", "cross", "star"]
Relation = Literal["left of", "above"]
Size = Literal["small", "large"]
Skill = Literal["single", "two", "counting", "colors", "position", "attribution"]

SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "ring", "cross", "star")
COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (230, 50, 45),
    "green": (50, 190, 70),
    "blue": (60, 90, 240),
    "yellow": (245, 215, 50),
    "purple": (170, 70, 200),
    "white": (240, 240, 240),
}
"""Name -> RGB of 255."""

SKILLS: tuple[Skill, ...] = ("single", "two", "counting", "colors", "position", "attribution")
BACKGROUND = (16, 16, 20)
HELD_OUT = frozenset(
    {
        ("purple", "circle"),
        ("yellow", "square"),
        ("white", "triangle"),
        ("red", "ring"),
        ("blue", "cross"),
        ("green", "star"),
    }
)
"""(color, shape): each color and each shape once."""

RADII: Mapping[Size | None, tuple[float, float]] = {
    None: (0.15, 0.34),
    "small": (0.15, 0.22),
    "large": (0.27, 0.34),
}
"""Radius of an object that is alone, uniform between these, in sides of the image."""

RADII_TOGETHER: Mapping[int, tuple[float, float]] = {2: (0.15, 0.22), 3: (0.12, 0.165)}
"""Number of objects in the scene -> the same."""

EDGE = 0.03
"""Least distance of objects to the edge and to each other's circle, in sides of the image."""

LATTICE = 8
"""Centers are multiples of 1 / 8 of the image's side: anywhere, small teachers draw blobs."""

_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
_FRAMES = ("{}", "a picture of {}", "a drawing of {}")
_RELATIONS: Mapping[str, tuple[Relation, bool]] = {
    "to the left of": ("left of", False),
    "left of": ("left of", False),
    "to the right of": ("left of", True),
    "right of": ("left of", True),
    "above": ("above", False),
    "below": ("above", True),
}
"""Words -> relation, and whether its two sides change places."""

_WORDINGS: Mapping[Relation, tuple[str, ...]] = {
    "left of": ("left of", "to the left of", "right of", "to the right of"),
    "above": ("above", "above", "below", "below"),
}
_NOUN = re.compile(
    rf"(?P<number>{'|'.join(_NUMBERS)}) (?:(?P<size>small|large) )?"
    rf"(?:(?P<color>{'|'.join(COLORS)}) )?(?P<shape>{'|'.join(SHAPES)})(?P<plural>e?s)?"
)


@dataclass(frozen=True)
class Asked:
    """Objects of one kind that a prompt asks for; None is what it leaves open."""

    shape: Shape
    color: str | None = None
    size: Size | None = None
    count: int = 1

    @property
    def phrase(self) -> str:
        """In words: "a small red star", "three rings"."""
        number = {1: "a", 2: "two", 3: "three"}[self.count]
        plural = "" if self.count == 1 else ("es" if self.shape == "cross" else "s")
        words = (number, self.size, self.color, f"{self.shape}{plural}")
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Request:
    """What a prompt asks for: objects of one to three kinds, and how two of them lie."""

    objects: tuple[Asked, ...]
    relation: Relation | None = None

    @property
    def skill(self) -> Skill:
        """Which of GenEval's tasks the request is of."""
        if self.relation is not None:
            return "position"
        if len(self.objects) > 1:
            colored = any(asked.color for asked in self.objects)
            return "attribution" if colored else "two"
        (asked,) = self.objects
        if asked.count > 1:
            return "counting"
        return "colors" if asked.color else "single"

    @property
    def count(self) -> int:
        """How many objects there are."""
        return sum(asked.count for asked in self.objects)


@dataclass(frozen=True)
class Placed:
    """One object of a scene: center and radius in sides of the image, y downwards."""

    shape: Shape
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """What an image shows, and a caption that is true of it."""

    objects: tuple[Placed, ...]
    caption: str


def parse(prompt: str) -> Request:
    """What a prompt asks for.

    Example:
        >>> request = parse("a picture of a star right of a blue ring")
        >>> request.objects[0].phrase, request.relation
        ('a blue ring', 'left of')

    Raises:
        RequestError: words that scenes do not know; says which part.
    """
    text = " ".join(prompt.lower().split()).rstrip(".")
    for frame in _FRAMES[1:]:
        text = text.removeprefix(frame.format(""))
    for words, (relation, swapped) in _RELATIONS.items():
        first, found, second = text.partition(f" {words} ")
        if found:
            sides = (_noun(first, prompt), _noun(second, prompt))
            if any(side.count > 1 or side.size for side in sides):
                raise _not_understood(text, prompt)
            return Request(sides[::-1] if swapped else sides, relation)
    objects = tuple(_noun(part, prompt) for part in re.split(r",? and |, ", text))
    count = sum(asked.count for asked in objects)
    if count > 3 or (len(objects) > 1 and any(a.count > 1 or a.size for a in objects)):
        raise _not_understood(text, prompt)
    return Request(objects)


def _noun(text: str, prompt: str) -> Asked:
    found = _NOUN.fullmatch(text.strip())
    if found is None or (_NUMBERS[found["number"]] > 1) != (found["plural"] is not None):
        raise _not_understood(text, prompt)
    shape = next(shape for shape in SHAPES if shape == found["shape"])
    size: Size | None = next((size for size in ("small", "large") if size == found["size"]), None)
    asked = Asked(shape, found["color"], size, _NUMBERS[found["number"]])
    if asked.size is not None and asked.count > 1:
        raise _not_understood(text, prompt)
    return asked


def _not_understood(part: str, prompt: str) -> RequestError:
    return RequestError(
        f"The prompt {prompt!r} is of no scene: {part.strip()!r} is not understood. Expected one "
        "to three objects such as 'a small red star', 'three green squares', 'a blue ring left of "
        "a white cross' or 'a star and a ring' (sizes of one object alone); shapes are "
        f"{', '.join(SHAPES)}; colors {', '.join(COLORS)}."
    )


def place(request: Request, rng: random.Random) -> tuple[Placed, ...]:
    """One draw of the distribution of scenes given what a prompt asks for.

    Colors left open are uniform over the pairs that are not held out. Radii and centers together
    are uniform over all that :data:`LATTICE`, :data:`EDGE` and the relation allow: several large
    objects have fewer places than small ones and are rarer; one alone has a uniform radius.
    """
    wanted: list[Asked] = []
    for asked in request.objects:  # three stars are of one color
        color = asked.color or rng.choice(allowed_colors(asked.shape))
        wanted += [replace(asked, color=color)] * asked.count
    while True:
        placed = tuple(_alone(asked, radius_range(request, asked), rng) for asked in wanted)
        if _apart(placed) and _related(placed, request.relation):
            return placed


def radius_range(request: Request, asked: Asked) -> tuple[float, float]:
    """Between which radii an object of a request is drawn."""
    return RADII[asked.size] if request.count == 1 else RADII_TOGETHER[request.count]


def allowed_colors(shape: str) -> list[str]:
    """The colors that a shape has in training."""
    return [color for color in COLORS if (color, shape) not in HELD_OUT]


def _alone(asked: Asked, radii: tuple[float, float], rng: random.Random) -> Placed:
    radius = rng.uniform(*radii)
    reach = lattice_reach(radius)
    x, y = (0.5 + rng.randint(-reach, reach) / LATTICE for _ in range(2))
    return Placed(asked.shape, str(asked.color), x, y, radius)


def lattice_reach(radius: float) -> int:
    """How many lattice points from the middle an object of that radius may lie, each way."""
    return math.floor((0.5 - radius - EDGE) * LATTICE)


def _apart(placed: Sequence[Placed]) -> bool:
    return all(
        math.dist((one.x, one.y), (other.x, other.y)) >= one.radius + other.radius + EDGE
        for number, one in enumerate(placed)
        for other in placed[:number]
    )


def _related(placed: Sequence[Placed], relation: Relation | None) -> bool:
    """Whether the second of two lies beyond the first by both radii."""
    if relation is None:
        return True
    first, second = placed
    along = second.x - first.x if relation == "left of" else second.y - first.y
    return along >= first.radius + second.radius


def word(request: Request, rng: random.Random) -> str:
    """A caption for a request, in one of several wordings."""
    phrases = [asked.phrase for asked in request.objects]
    if request.relation is not None:
        words = rng.choice(_WORDINGS[request.relation])
        if _RELATIONS[words][1]:
            phrases.reverse()
        text = f"{phrases[0]} {words} {phrases[1]}"
    elif len(phrases) == 3:
        text = f"{phrases[0]}, {phrases[1]} and {phrases[2]}"
    else:
        text = " and ".join(phrases)
    return rng.choice(_FRAMES).format(text)


def draw(rng: random.Random, held_out: bool = False) -> Scene:
    """A scene of random content, whose caption asks for a held-out pair or for none."""
    request = _draw_request(rng)
    while _asks_held_out(request) != held_out:
        request = _draw_request(rng)
    return Scene(place(request, rng), word(request, rng))


def _asks_held_out(request: Request) -> bool:
    return any((asked.color, asked.shape) in HELD_OUT for asked in request.objects)


def _draw_request(rng: random.Random) -> Request:
    skill = rng.choices(SKILLS, (0.1, 0.1, 0.15, 0.25, 0.25, 0.15))[0]
    match skill:
        case "single" | "colors":
            size: Size | None = rng.choice((None, None, "small", "large"))
            return Request((Asked(rng.choice(SHAPES), _color(rng, skill == "colors"), size),))
        case "counting":
            color = _color(rng, rng.random() < 0.7)
            return Request((Asked(rng.choice(SHAPES), color, count=rng.choice((2, 3))),))
        case "two":
            return Request(tuple(Asked(shape) for shape in rng.sample(SHAPES, 2)))
        case "position":
            colored = rng.random() < 0.7
            relation: Relation = rng.choice(("left of", "above"))
            return Request(_different(rng, 2, colored), relation)
        case "attribution":
            return Request(_different(rng, rng.choice((2, 2, 3)), True))


def _different(rng: random.Random, count: int, colored: bool) -> tuple[Asked, ...]:
    """Objects of which no two are alike: a caption would else ask for nothing in particular."""
    objects: list[Asked] = []
    while len(objects) < count:
        asked = Asked(rng.choice(SHAPES), _color(rng, colored))
        if asked not in objects:
            objects.append(asked)
    return tuple(objects)


def _color(rng: random.Random, colored: bool) -> str | None:
    return rng.choice(tuple(COLORS)) if colored else None


def render(scenes: Sequence[Sequence[Placed]], side: int) -> Tensor:
    """Images float32 (N, 3, side, side) in [0, 1], anti-aliased over one pixel.

    A pixel is covered by half a pixel minus its center's signed distance to the shape.
    """
    ground = torch.tensor(BACKGROUND, dtype=torch.float32).div(255)[:, None, None]
    images = ground.expand(len(scenes), 3, side, side).clone()
    of_shape: dict[str, list[tuple[int, Placed]]] = {}
    for number, objects in enumerate(scenes):
        for placed in objects:
            of_shape.setdefault(placed.shape, []).append((number, placed))
    for shape, found in of_shape.items():
        for start in range(0, len(found), _AT_ONCE):
            _paint(images, ground, shape, found[start : start + _AT_ONCE])
    return images


_AT_ONCE = 1000


def _paint(images: Tensor, ground: Tensor, shape: str, found: Sequence[tuple[int, Placed]]) -> None:
    side = images.shape[-1]
    where = torch.tensor([number for number, _ in found])
    center = torch.tensor([(placed.x, placed.y) for _, placed in found])
    radius = torch.tensor([placed.radius for _, placed in found])[:, None, None]
    color = torch.tensor([COLORS[placed.color] for _, placed in found]).div(255)[:, :, None, None]
    middle = (torch.arange(side) + 0.5) / side
    x = (middle[None, None, :] - center[:, 0, None, None]) / radius
    y = (middle[None, :, None] - center[:, 1, None, None]) / radius
    distance = _distance(shape, x.expand(-1, side, -1), y.expand(-1, -1, side)) * radius * side
    cover = (0.5 - distance).clamp(0, 1)[:, None]
    # Circles of objects keep apart, so that order does not matter; corners may just touch.
    images.index_add_(0, where, cover * (color - ground))
    images.clamp_(max=1)


def _distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a shape of radius 1 around 0, negative inside."""
    if shape == "circle":
        return (x**2 + y**2).sqrt() - 0.92
    if shape == "ring":
        return ((x**2 + y**2).sqrt() - 0.76).abs() - 0.2
    return _polygon_distance(_corners(shape), x, y)


@cache
def _corners(shape: str) -> tuple[tuple[float, float], ...]:
    if shape == "square":
        return ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8))
    if shape == "triangle":
        return ((0.0, -0.95), (0.95, 0.75), (-0.95, 0.75))
    if shape == "cross":
        a, b = 0.33, 0.97
        return (
            *((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)),
            *((a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)),
        )
    radii = (1.0, 0.45)
    return tuple(
        (radii[n % 2] * math.sin(n * math.pi / 5), -radii[n % 2] * math.cos(n * math.pi / 5))
        for n in range(10)
    )


def _polygon_distance(corners: Sequence[tuple[float, float]], x: Tensor, y: Tensor) -> Tensor:
    """Distance to the nearest edge; inside where a ray crosses an odd number of edges."""
    squared = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2)).clamp(0, 1)
        squared = torch.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            crosses = ((y >= ay) != (y >= by)) & (x < ax + (y - ay) * ex / ey)
            inside ^= crosses
    distance = squared.sqrt()
    return torch.where(inside, -distance, distance)


class Scenes(LabeledImages):
    """So many scenes of one seed; the first hundred of a thousand are those of a hundred.

    Args:
        name: in settings.
        count: images.
        seed: scenes of different seeds are drawn independently.
        held_out: whether every caption asks for a held-out pair, instead of none.
    """

    origin = "drawn by workbench.data.scenes"
    network = "scenes"
    wordings = 1

    def __init__(self, name: str, count: int, seed: int, held_out: bool = False) -> None:
        self.name, self.count, self.seed, self.held_out = name, count, seed, held_out
        self.identity = f"{name}-{count}-seed-{seed}-revision-2"

    def __len__(self) -> int:
        return self.count

    @cached_property
    def scenes(self) -> tuple[Scene, ...]:
        """What the images show."""
        return tuple(
            draw(random.Random(f"scenes/{self.seed}/{number}"), self.held_out)
            for number in range(self.count)
        )

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Their different captions, in order of first use."""
        return tuple(dict.fromkeys(scene.caption for scene in self.scenes))

    @cached_property
    def labels(self) -> Tensor:
        places = {caption: place for place, caption in enumerate(self.prompts)}
        return torch.tensor([places[scene.caption] for scene in self.scenes])

    def images(self, side: int, limit: int | None = None) -> Tensor:
        return render([scene.objects for scene in self.scenes[:limit]], side)
