"""A small detector of the objects of scenes: where GenEval has Mask2Former, and FID Inception.

One network that says for each cell of an 8 x 8 grid whether an object's center is near, and of
which shape, color, place and radius (the idea of CenterNet, Zhou et al. 2019, arXiv 1904.07850). It
comes trained with the package; ``workbench.evaluation.scenes.train`` makes its weights again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.data.scenes import COLORS, SHAPES
from workbench.errors import WorkbenchError
from workbench.evaluation.extractors import FeatureExtractor, weights_hash
from workbench.evaluation.networks.pixels import OncePerBatch
from workbench.evaluation.threads import one_thread

PIXELS = 32
CELLS = 8
DIMENSION = 64
REVISION = 1
"""Of what this file computes from the weights."""

WEIGHTS = Path(__file__).parents[2] / "pretrained" / "scenes-detector" / "detector.safetensors"

_PRESENT = 0.5
"""Least objectness of an object."""

_APART = 0.135
"""Centers nearer than this, in sides of the image, are one object: half of what scenes keep."""

_AT_ONCE = 250
_SPLIT = (1, len(SHAPES), len(COLORS), 2, 1)


@dataclass(frozen=True)
class Detected:
    """One object that was found: indices into ``SHAPES`` and ``COLORS``; sides of the image."""

    shape: int
    color: int
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Cells:
    """What the network says of each cell of the grid, before anything is decided.

    Attributes:
        present: logits (B, 8, 8).
        shapes, colors: logits (B, 6, 8, 8).
        centers: (B, 2, 8, 8), x and y in sides of the image.
        radii: (B, 8, 8), in sides of the image.
    """

    present: Tensor
    shapes: Tensor
    colors: Tensor
    centers: Tensor
    radii: Tensor


class SceneDetector(nn.Module, FeatureExtractor):
    """Finds objects; a :class:`FeatureExtractor` through its last layer's average over the grid.

    It runs on the CPU, where the same weights give the same features, whatever device the images
    come from.

    Attributes:
        accuracy: share of real scenes of ``scenes-val`` in which it finds exactly what is there.
    """

    name = "scenes-detector"
    dimension = DIMENSION

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = float("nan")
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            *_after(16),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            *_after(32),
            nn.Conv2d(32, 32, 3, padding=1),
            *_after(32),
            nn.Conv2d(32, DIMENSION, 3, padding=1, stride=2),
            *_after(DIMENSION),
            _Residual(DIMENSION),
            _Residual(DIMENSION),
        )
        self.head = nn.Conv2d(DIMENSION, sum(_SPLIT), 1)
        self.register_buffer("middles", cell_middles(), persistent=False)
        self._seen = OncePerBatch(self._see)  # features and judges look at the same batches

    def freeze(self) -> SceneDetector:
        """End training; from here on the fingerprint is of the weights."""
        self.fingerprint = f"{REVISION}-{weights_hash(self)}"
        return self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Cells:
        """Images (B, 3, 32, 32) in [0, 1]."""
        return self._told(self.trunk(images))

    def _told(self, grid: Tensor) -> Cells:
        present, shapes, colors, offsets, radii = self.head(grid).split(_SPLIT, dim=1)
        middles: Tensor = self.get_buffer("middles")
        return Cells(present[:, 0], shapes, colors, middles + offsets / CELLS, radii[:, 0])

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to features (B, 64); the prompts do not matter."""
        return self.features(images)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to the last layer's average over the grid, (B, 64)."""
        with one_thread():
            return self._seen(images).mean(dim=(2, 3))

    @torch.no_grad()
    def detect(self, images: Tensor) -> list[tuple[Detected, ...]]:
        """The objects in images (B, 3, H, W) in [0, 1], the surest first."""
        with one_thread():
            parts = torch.split(self._seen(images), _AT_ONCE)
            return [objects for part in parts for objects in _decided(self._told(part))]

    def _see(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the last layer's grid (B, 64, 8, 8)."""
        return torch.cat([self.trunk(part) for part in torch.split(as_scenes(images), _AT_ONCE)])


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(8, channels), nn.SiLU()


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            *_after(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.functional.silu(x + self.body(x))
        return out


def cell_middles() -> Tensor:
    """x and y of the middles of the grid's cells, (2, 8, 8), in sides of the image."""
    middle = (torch.arange(CELLS) + 0.5) / CELLS
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack((x, y))


def as_scenes(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) averaged over areas to (B, 3, 32, 32), float32 on the CPU."""
    seen = images.detach().to("cpu", torch.float32)
    return nn.functional.adaptive_avg_pool2d(seen, PIXELS)


def _decided(cells: Cells) -> list[tuple[Detected, ...]]:
    """A cell's object counts where no surer cell tells of one with almost the same center."""
    scores = cells.present.sigmoid().flatten(1)
    centers = cells.centers.flatten(2).transpose(1, 2)
    near = torch.cdist(centers, centers) < _APART
    surer = scores[:, None, :] > scores[:, :, None]
    kept = (scores > _PRESENT) & ~(near & surer).any(dim=2)
    shapes, colors = (part.flatten(2).argmax(dim=1) for part in (cells.shapes, cells.colors))
    radii = cells.radii.flatten(1)
    found = []
    for row, keep in enumerate(kept):
        places = keep.nonzero()[:, 0]
        places = places[scores[row, places].argsort(descending=True)]
        found.append(
            tuple(
                Detected(int(shape), int(color), float(x), float(y), float(radius))
                for shape, color, (x, y), radius in zip(
                    shapes[row, places].tolist(),
                    colors[row, places].tolist(),
                    centers[row, places].tolist(),
                    radii[row, places].tolist(),
                    strict=True,
                )
            )
        )
    return found


def save_detector(path: Path, detector: SceneDetector) -> None:
    """Write the weights with their hash and their accuracy."""
    from safetensors.torch import save_file

    known = {"weights": weights_hash(detector), "accuracy": detector.accuracy}
    save_file(detector.state_dict(), path, metadata={"detector": json.dumps(known)})


@cache
def load_detector(path: Path = WEIGHTS) -> SceneDetector:
    """The detector that comes with the package.

    Raises:
        WorkbenchError: its file is missing, damaged or altered.
    """
    from safetensors import SafetensorError, safe_open

    detector = SceneDetector()
    try:
        with safe_open(path, framework="pt") as file:
            known = json.loads(file.metadata()["detector"])
            detector.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        detector.accuracy = float(known["accuracy"])
        intact = known["weights"] == weights_hash(detector)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise WorkbenchError(
            f"The detector of scenes in {path} cannot be read ({error}); reinstall the package."
        ) from error
    if not intact:
        raise WorkbenchError(
            f"The detector of scenes in {path} is not the one that was trained; reinstall the "
            "package."
        )
    return detector.freeze()
