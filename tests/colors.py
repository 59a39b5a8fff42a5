"""Coloured shapes with captions: a task that is only the tests' own, with all that it needs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.small_inception import SmallInception
from workbench.data.labeled import LabeledImages
from workbench.evaluation.networks.weights import metrics_package

SIDE, COUNT = 32, 288
SHADES = {
    "red": (0.9, 0.15, 0.1),
    "green": (0.1, 0.75, 0.2),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.85, 0.1),
}
SHAPES = ("square", "disc", "bar")
CAPTIONS = tuple(f"a {shade} {shape}" for shade in SHADES for shape in SHAPES)
CLIP_CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@cache
def images(side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Shapes at random places on grey (288, 3, side, side), and the numbers of their captions."""
    generator = torch.Generator().manual_seed(0)
    at = (torch.arange(side) + 0.5) / side
    down, across = torch.meshgrid(at, at, indexing="ij")
    drawn, labels = [], torch.arange(COUNT) % len(CAPTIONS)
    for label in labels.tolist():
        shade, shape = divmod(label, len(SHAPES))
        x, y, size = (0.3 + 0.4 * torch.rand(3, generator=generator)).tolist()
        dx, dy, radius = (across - x).abs(), (down - y).abs(), 0.5 * size
        inside = {
            "square": (dx < radius) & (dy < radius),
            "disc": dx.square() + dy.square() < radius**2,
            "bar": (dx < radius) & (dy < 0.3 * radius),
        }[SHAPES[shape]]
        color = torch.tensor(list(SHADES.values())[shade])[:, None, None]
        drawn.append(torch.where(inside, color, torch.full((3, 1, 1), 0.5)))
    return torch.stack(drawn), labels


class Colors(LabeledImages):
    name, identity, origin, network = "colors", "tests-colors", "tests/colors.py", "colors"
    prompts, wordings = CAPTIONS, 1

    @property
    def labels(self) -> Tensor:
        return images()[1]

    def images(self, side: int, limit: int | None = None) -> Tensor:
        return images(side)[0][:limit]


COLORS = Colors()


def write_images(folder: Path) -> None:
    """PNG files and ``captions.txt`` beside their folder, a line an image."""
    pictures, labels = images()
    folder.mkdir(parents=True)
    pixels = pictures.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for index, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{index:04d}.png")
    lines = [CAPTIONS[label] for label in labels.tolist()]
    (folder.parent / "captions.txt").write_text("\n".join(lines) + "\n")


def write_networks(folder: Path) -> tuple[Path, Path]:
    """A TorchScript like clean-fid's Inception, and a CLIP as open_clip keeps them on the hub."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    inception, clip = folder / "inception.pt", folder / "clip"
    torch.jit.script(SmallInception().eval()).save(str(inception))
    metrics_package("open_clip")
    from open_clip.model import CLIP

    clip.mkdir()
    (clip / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG}))
    save_file(CLIP(**CLIP_CONFIG).state_dict(), clip / "open_clip_model.safetensors")
    return inception, clip


def write_experiment(folder: Path, prompts: Path, inception: Path, clip: Path) -> None:
    """An experiment with its own recipe and task, as a person keeps them."""
    for name in ("recipes", "tasks"):
        (folder / name).mkdir(parents=True)
    (folder / "tasks" / "colors.toml").write_text(f"""
description = "Coloured shapes"
[[settings]]
source = "made in the test"
prompts.source = "{prompts}"
evaluation.reference = "colors"
evaluation.metrics = ["fid", "clip"]
evaluation.weights.inception = "{inception}"
evaluation.weights.clip = "{clip}"
evaluation.samples = 48
evaluation.batch_size = "auto"
evaluation.shown = ["a red disc", "a blue square", "a green bar"]
""")
    (folder / "recipes" / "colors.toml").write_text("""
description = "Small teachers of coloured shapes"
task = "colors"
[[settings]]
source = "made in the test"
training.kimg = 0.48
training.batch_size = 32
training.ema_halflife_kimg = 0.1
schedule.log_kimg = 0.16
schedule.evaluate_kimg = 0.16
schedule.checkpoint_kimg = 0.16
evaluation.stock_steps = [6]
evaluation.stock_guidance = 2.0
evaluation.teacher_steps = [4]
evaluation.student_steps = [4]
""")
    (folder / "shades.toml").write_text("""
name = "shades"
question = "Does alpha matter for coloured shapes?"
hypothesis = "No."
[variants.low]
method.sid_alpha = 0.8
[variants.high]
method.sid_alpha = 1.2
[space]
"method.sid_alpha" = { low = 0.6, high = 1.4 }
""")
