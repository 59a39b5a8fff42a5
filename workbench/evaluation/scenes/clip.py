"""A small CLIP of scenes, trained and written by open_clip, so that ViT-g-14's code loads it.

It is trained on drawn scenes, held-out pairs of color and shape among them: a judge must know what
a generator is not shown. Beside the other captions of the batch each image is told apart from
captions that differ from its own in one point (Yuksekgonul et al. 2023, arXiv 2210.01936).

It sees colors, shapes, counts and which color belongs to which object (each in at least 0.999 of
scenes-val), but, like large ones, not how objects lie (0.496, chance); its README has all figures.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.data.scenes import (
    COLORS,
    SHAPES,
    Asked,
    Request,
    Scene,
    draw,
    parse,
    render,
    word,
)
from workbench.evaluation.networks.openclip import MEAN, STD
from workbench.evaluation.networks.weights import metrics_package
from workbench.evaluation.threads import one_thread
from workbench.pretrained import write_checksums

CONFIG: Mapping[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 12, "head_width": 64},
    "text_cfg": {"context_length": 24, "width": 96, "heads": 4, "layers": 2},
}
"""For open_clip: its ResNet, which learns shapes from fewer images than a ViT of this size."""

_SPECIAL = ("[PAD]", "[UNK]")
_END = "[END]"
_WORDS = (
    *("a", "an", "one", "two", "three", "picture", "drawing", "of", "and", ",", "."),
    *("to", "the", "left", "right", "above", "below", "small", "large"),
)
_SIDE = 32


def words() -> tuple[str, ...]:
    """The vocabulary in order; the end comes last, for open_clip reads a text at its largest id."""
    plurals = [Asked(shape, count=2).phrase.split()[-1] for shape in SHAPES]
    return (*_SPECIAL, *_WORDS, *COLORS, *SHAPES, *plurals, _END)


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words as transformers keeps it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {text: number for number, text in enumerate(words())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=_SPECIAL[1]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_END}", special_tokens=[(_END, ids[_END])]
    )
    wrapped: Any = PreTrainedTokenizerFast
    wrapped(
        tokenizer_object=tokenizer, pad_token=_SPECIAL[0], unk_token=_SPECIAL[1], eos_token=_END
    ).save_pretrained(folder)


def write_config(folder: Path) -> None:
    """``open_clip_config.json``, without which open_clip takes the folder for none of its own."""
    text = {
        **CONFIG["text_cfg"],
        "vocab_size": len(words()),
        "hf_tokenizer_name": "words of scenes",
    }
    config = {
        "model_cfg": {**CONFIG, "text_cfg": text},
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def other_color(request: Request, rng: random.Random) -> Request | None:
    """One object's color is another."""
    return _with_one(
        request,
        rng,
        lambda asked: (
            replace(asked, color=rng.choice([color for color in COLORS if color != asked.color]))
            if asked.color
            else None
        ),
    )


def other_shape(request: Request, rng: random.Random) -> Request | None:
    """One object is of another shape."""
    return _with_one(
        request,
        rng,
        lambda asked: replace(
            asked, shape=rng.choice([shape for shape in SHAPES if shape != asked.shape])
        ),
    )


def swapped_relation(request: Request, rng: random.Random) -> Request | None:
    """The objects change places."""
    return replace(request, objects=request.objects[::-1]) if request.relation else None


def swapped_colors(request: Request, rng: random.Random) -> Request | None:
    """Each of two objects has the other's color."""
    if len(request.objects) != 2:
        return None
    first, second = request.objects
    if first.color == second.color or first.shape == second.shape:
        return None
    objects = (replace(first, color=second.color), replace(second, color=first.color))
    return replace(request, objects=objects)


def other_count(request: Request, rng: random.Random) -> Request | None:
    """One object more or less, of its only kind."""
    if len(request.objects) != 1:
        return None
    (asked,) = request.objects
    count = rng.choice([count for count in (1, 2, 3) if count != asked.count])
    return Request((replace(asked, size=None, count=count),))


CHANGES: Mapping[str, Callable[[Request, random.Random], Request | None]] = {
    "another color": other_color,
    "another shape": other_shape,
    "places swapped": swapped_relation,
    "colors swapped": swapped_colors,
    "another count": other_count,
}
"""What makes a true caption false; None where a request has nothing of the kind."""


def _with_one(
    request: Request, rng: random.Random, change: Callable[[Asked], Asked | None]
) -> Request | None:
    place = rng.randrange(len(request.objects))
    changed = change(request.objects[place])
    if changed is None:
        return None
    objects = (*request.objects[:place], changed, *request.objects[place + 1 :])
    return replace(request, objects=objects)


@dataclass(frozen=True)
class ClipRecipe:
    """How the network is trained.

    Attributes:
        batch_size: scenes of different requests.
        false_captions: of each image, besides the other images' captions.
        held_out: share of scenes with held-out pairs.
        learning_rate: highest, of AdamW with one cycle.
    """

    steps: int = 1000
    batch_size: int = 192
    false_captions: int = 3
    held_out: float = 0.3
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    seed: int = 0


def train_clip(out: Path, recipe: ClipRecipe, show: Callable[[int, int, float], None]) -> None:
    """Train a network and write it to a folder as open_clip's ``local-dir:`` wants it.

    Args:
        show: called with step, steps and loss.
    """
    open_clip = metrics_package("open_clip")
    out.mkdir(parents=True, exist_ok=True)
    write_tokenizer(out)
    write_config(out)
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(recipe.seed)
        model = open_clip.create_model(f"local-dir:{out.resolve()}", load_weights=False)
        _train(model, open_clip.get_tokenizer(f"local-dir:{out.resolve()}"), recipe, show)
    save_clip(out, model)
    write_checksums(out)


def save_clip(out: Path, model: Any) -> None:
    """Weights in bfloat16, which open_clip reads into float32."""
    from safetensors.torch import save_file

    state = {
        name: each.to(torch.bfloat16).contiguous() for name, each in model.state_dict().items()
    }
    save_file(state, out / "open_clip_model.safetensors")


def _train(
    model: Any, tokenizer: Any, recipe: ClipRecipe, show: Callable[[int, int, float], None]
) -> None:
    model.train()
    parameters: list[Tensor] = list(model.parameters())
    matrices = [each for each in parameters if each.ndim > 1]
    others = [each for each in parameters if each.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        weight_decay=recipe.weight_decay,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    rng = random.Random(f"clip/{recipe.seed}")
    for step in range(1, recipe.steps + 1):
        scenes = draw_batch(recipe.batch_size, rng, recipe.held_out)
        captions = [scene.caption for scene in scenes]
        captions += [
            caption for scene in scenes for caption in _false(scene, recipe.false_captions, rng)
        ]
        images = model.encode_image(prepared(scenes), normalize=True)
        texts = model.encode_text(tokenizer(captions), normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T
        target = torch.arange(len(scenes))
        loss = F.cross_entropy(logits, target)
        loss = loss + F.cross_entropy(logits[:, : len(scenes)].T, target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=4.6)  # 100, as CLIP's authors do
        show(step, recipe.steps, loss.item())


def draw_batch(count: int, rng: random.Random, held_out: float) -> list[Scene]:
    """Scenes of different requests, a share of them with held-out pairs."""
    found: dict[Request, Scene] = {}
    while len(found) < count:
        scene = draw(rng, rng.random() < held_out)
        found.setdefault(parse(scene.caption), scene)
    return list(found.values())


def _false(scene: Scene, count: int, rng: random.Random) -> list[str]:
    request = parse(scene.caption)
    changed = [change(request, rng) for change in CHANGES.values()]
    there = [each for each in changed if each is not None]
    return [word(each, rng) for each in rng.choices(there, k=count)]


def prepared(scenes: Sequence[Scene]) -> Tensor:
    """Images (N, 3, S, S) as the network takes them, through bytes as samples go."""
    images = render([scene.objects for scene in scenes], _SIDE).mul(255).round().div(255)
    size = CONFIG["vision_cfg"]["image_size"]
    images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def quality(folder: Path, scenes: Sequence[Scene]) -> dict[str, float]:
    """What the network of a folder tells apart in unseen scenes.

    Returns:
        Share of scenes whose caption scores above one with a change (:data:`CHANGES`); and
        ``retrieval``, the share of images whose caption scores highest of a hundred requests'.
    """
    open_clip = metrics_package("open_clip")
    name = f"local-dir:{folder.resolve()}"
    model = open_clip.create_model(name, require_pretrained=True).eval()
    tokenizer = open_clip.get_tokenizer(name)

    def embed(captions: Sequence[str]) -> Tensor:
        embeddings: Tensor = model.encode_text(tokenizer(list(captions)), normalize=True)
        return embeddings

    rng = random.Random("quality")
    images = torch.cat(
        [
            model.encode_image(prepared(scenes[start : start + 500]), normalize=True)
            for start in range(0, len(scenes), 500)
        ]
    )
    own = (images * embed([scene.caption for scene in scenes])).sum(-1)
    found = {}
    for title, change in CHANGES.items():
        changed = [change(parse(scene.caption), rng) for scene in scenes]
        places = [place for place, each in enumerate(changed) if each is not None]
        false = embed([word(each, rng) for each in changed if each is not None])
        found[title] = (own[places] > (images[places] * false).sum(-1)).float().mean().item()
    first: dict[Request, int] = {}
    for place, scene in enumerate(scenes):
        first.setdefault(parse(scene.caption), place)
    places = list(first.values())[: len(first) // 100 * 100]
    texts = embed([scenes[place].caption for place in places])
    hundreds = images[places].reshape(-1, 100, images.shape[1])
    guessed = (hundreds @ texts.reshape(hundreds.shape).mT).argmax(-1)
    found["retrieval"] = (guessed == torch.arange(100)).float().mean().item()
    return found
