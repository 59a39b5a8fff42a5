"""A small classifier of handwritten digits: features for the Frechet distance, prompt alignment.

It stands where an Inception network and CLIP stand for photographs: trained here in seconds, and
cached with the hash of its recipe, so that every score names the weights it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import WorkbenchError
from workbench.evaluation.extractors import FeatureExtractor, weights_hash
from workbench.evaluation.threads import one_thread
from workbench.flow.noise import NoiseSource
from workbench.workspace import written_aside

PIXELS = 8  # the data set's own resolution


@dataclass(frozen=True)
class ClassifierRecipe:
    """Everything that decides the weights, besides the images themselves."""

    width: int = 32
    dimension: int = 64
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    label_smoothing: float = 0.02
    held_out_every: int = 5
    seed: int = 0
    revision: int = 1  # of this file's training code

    def hash(self, images: Tensor, labels: Tensor) -> str:
        """Short hash of the recipe and of the data it is applied to."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        digest.update(images.contiguous().numpy().tobytes())
        digest.update(labels.contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


class DigitsClassifier(nn.Module, FeatureExtractor):
    """Classifies digits 0-9; a :class:`FeatureExtractor` through its penultimate layer.

    ``accuracy`` is the one on the held-out fifth of the images. It runs on the CPU, where the
    same weights give the same features, whatever device the images come from.
    """

    name = "digits-classifier"

    def __init__(self, recipe: ClassifierRecipe, recipe_hash: str = "") -> None:
        super().__init__()
        self.recipe, self.recipe_hash = recipe, recipe_hash
        self.dimension = recipe.dimension
        self.accuracy = float("nan")
        width = recipe.width
        self.trunk = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, padding=1, stride=2),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(2 * width * (PIXELS // 2) ** 2, recipe.dimension),
            nn.GELU(),
        )
        self.head = nn.Linear(recipe.dimension, 10)

    def freeze(self) -> DigitsClassifier:
        """End training; from here on the fingerprint is of the recipe, its data and the weights."""
        self.fingerprint = f"{self.recipe_hash}-{weights_hash(self)}"
        return self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Digits (B, 1, 8, 8) in [0, 1] to logits (B, 10)."""
        logits: Tensor = self.head(self.trunk(images))
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to the penultimate layer's activations (B, 64)."""
        activations: Tensor = self.trunk(as_digits(images))
        return activations

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """:meth:`features`; the prompts do not matter."""
        return self.features(images)

    @torch.no_grad()
    def log_probabilities(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to log p(digit | image), (B, 10)."""
        return torch.log_softmax(self(as_digits(images)), dim=1)


class DigitAlignment(FeatureExtractor):
    """Prompt alignment: the probability that an image shows the digit its prompt asks for."""

    name = "alignment"
    dimension = 1

    def __init__(self, classifier: DigitsClassifier) -> None:
        self.classifier, self.fingerprint = classifier, classifier.fingerprint

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that ask for no digit.

        Raises:
            RequestError: names the first of them.
        """
        self._wanted(prompts)

    def extract(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images (B, 3, H, W) and their B prompts to probabilities (B, 1).

        Raises:
            RequestError: a prompt asks for no digit.
        """
        wanted = torch.tensor(self._wanted(prompts))
        probabilities = self.classifier.log_probabilities(images).exp()
        return probabilities.gather(1, wanted[:, None])

    def _wanted(self, prompts: Sequence[str]) -> list[int]:
        from workbench.data.bundled import prompt_label

        labels = {prompt: prompt_label(prompt) for prompt in dict.fromkeys(prompts)}
        return [labels[prompt] for prompt in prompts]


def as_digits(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) averaged to gray and over areas to (B, 1, 8, 8), float32 on the CPU."""
    gray = images.detach().to("cpu", torch.float32).mean(dim=1, keepdim=True)
    return nn.functional.adaptive_avg_pool2d(gray, PIXELS)


def load_or_train(cache_dir: Path, recipe: ClassifierRecipe | None = None) -> DigitsClassifier:
    """The classifier from the cache, trained (a few seconds) when absent, altered or damaged.

    Raises:
        WorkbenchError: training ended below 97 % on held-out digits.
    """
    from workbench.data.bundled import DIGITS

    recipe = recipe or ClassifierRecipe()
    images, labels = DIGITS.images(32), DIGITS.labels
    recipe_hash = recipe.hash(images, labels)
    path = Path(cache_dir) / f"digits-classifier-{recipe_hash}.safetensors"
    cached = _load(path, recipe, recipe_hash)
    if cached is not None:
        return cached
    classifier = train(recipe, as_digits(images), labels, recipe_hash)
    if classifier.accuracy < 0.97:
        raise WorkbenchError(
            f"The digits classifier reached only {classifier.accuracy:.1%} on held-out digits "
            "(expected at least 97 %): no score would mean anything."
        )
    _save(path, classifier)
    return classifier


def train(
    recipe: ClassifierRecipe, digits: Tensor, labels: Tensor, recipe_hash: str = ""
) -> DigitsClassifier:
    """Train on digits (N, 1, 8, 8) with labels (N,), every ``held_out_every``-th held out.

    Deterministic: own random numbers, and one thread, so that the number of cores decides nothing.
    """
    noise = NoiseSource(recipe.seed)
    held_out = torch.arange(len(labels)) % recipe.held_out_every == 0
    inputs, targets = digits[~held_out], labels[~held_out]
    classifier = DigitsClassifier(recipe, recipe_hash)
    with one_thread():
        _initialise(classifier, noise)
        optimizer = torch.optim.AdamW(
            classifier.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        steps = recipe.epochs * -(-len(targets) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for epoch in range(recipe.epochs):
            order = noise.permutation(f"classifier/order/{epoch}", len(targets))
            for batch in torch.split(order, recipe.batch_size):
                loss = nn.functional.cross_entropy(
                    classifier(inputs[batch]),
                    targets[batch],
                    label_smoothing=recipe.label_smoothing,
                )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
        classifier.freeze()
        guesses = classifier(digits[held_out]).argmax(dim=1)
    classifier.accuracy = (guesses == labels[held_out]).float().mean().item()
    return classifier


def _initialise(classifier: DigitsClassifier, noise: NoiseSource) -> None:
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            values = noise.normal(f"classifier/{name}", 0, 1, parameter.shape)[0]
            parameter.copy_(values * (2.0 / parameter[0].numel()) ** 0.5)


def _save(path: Path, classifier: DigitsClassifier) -> None:
    from safetensors.torch import save_file

    known = {"weights": weights_hash(classifier), "accuracy": classifier.accuracy}
    with written_aside(path) as partial:
        save_file(classifier.state_dict(), partial, metadata={"classifier": json.dumps(known)})


def _load(path: Path, recipe: ClassifierRecipe, recipe_hash: str) -> DigitsClassifier | None:
    """The cached classifier, or None when there is none whose weights match their hash."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    classifier = DigitsClassifier(recipe, recipe_hash)
    try:
        with safe_open(path, framework="pt") as file:
            known: dict[str, Any] = json.loads(file.metadata()["classifier"])
            classifier.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        classifier.accuracy = float(known["accuracy"])
        intact = known["weights"] == weights_hash(classifier)
    except (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError):
        return None
    return classifier.freeze() if intact else None
