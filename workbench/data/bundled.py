"""The data sets that come with the package: scikit-learn's handwritten digits, and scenes.

1797 real 8 x 8 scans (Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits"),
enlarged to the size of an image, with prompts in several wordings for every digit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from workbench.data.labeled import LabeledImages
from workbench.data.scenes import Scenes
from workbench.errors import RequestError

NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

WORDINGS = (
    "a handwritten {word}",
    "the digit {numeral}",
    "a photo of the number {numeral}",
    "a scan of the numeral {word}",
    "{word} written by hand",
    "number {word} in white ink",
)
"""Wordings of a prompt; each is used with all ten digits."""

_OTHER_WORDS = frozenset(re.findall(r"[a-z]+", " ".join(WORDINGS).replace("{word}", "")))
"""Words that a prompt may hold besides the digit: "two dogs" is refused."""

_LARGEST_PIXEL = 16.0

PROMPTS: tuple[str, ...] = tuple(
    wording.format(word=word, numeral=label)
    for label, word in enumerate(NUMBER_WORDS)
    for wording in WORDINGS
)
"""Every wording of every digit, 60 prompts, the wordings of a digit together."""


def the_number_in(prompt: str) -> int:
    """The one number from 0 to 9 that a prompt names, as a word or a numeral.

    Raises:
        RequestError: none, or several.
    """
    numbers, _ = _numbers_and_words(prompt)
    if len(numbers) != 1:
        found = "none" if not numbers else ", ".join(map(str, numbers))
        raise RequestError(
            f"The prompt {prompt!r} must name exactly one number from 0 to 9; it names {found}."
        )
    return numbers[0]


def prompt_label(prompt: str) -> int:
    """The digit that a prompt asks for, as a word or a numeral, in words of :data:`WORDINGS`.

    Raises:
        RequestError: the prompt names no digit, or several, or speaks of something else.
    """
    named, words = _numbers_and_words(prompt)
    if len(named) != 1:
        found = "no digit" if not named else "the digits " + ", ".join(map(str, named))
        raise RequestError(f"The prompt {prompt!r} names {found}; expected exactly one of 0-9.")
    others = [word for word in words if word not in _OTHER_WORDS]
    if others:
        raise RequestError(
            f"The prompt {prompt!r} asks for more than a digit ({others[0]!r}); expected exactly "
            f"one of 0-9 in words like {PROMPTS[0]!r}."
        )
    return named[0]


def _numbers_and_words(prompt: str) -> tuple[list[int], list[str]]:
    """The different numbers from 0 to 9 that a prompt names, sorted, and its other words."""
    words = re.findall(r"[a-z]+|[0-9]+", prompt.lower())
    known = {str(number): number for number in range(10)}
    known |= {word: number for number, word in enumerate(NUMBER_WORDS)}
    numbers = {known[word] for word in words if word in known}
    return sorted(numbers), [word for word in words if word not in known]


@cache
def _scans() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    return torch.from_numpy(images / _LARGEST_PIXEL).float(), torch.from_numpy(labels).long()


class Digits(LabeledImages):
    """All 1797 digits, white on black, in the data set's own order.

    Enlarged by bicubic interpolation: averaging a square of the result over its area gives the
    scan's pixel back closely, and the strokes look like strokes.
    """

    name = "digits"
    identity = "sklearn-digits-1797"
    origin = "sklearn.datasets"
    network = "digits"
    wordings = len(WORDINGS)
    prompts = PROMPTS

    @property
    def labels(self) -> Tensor:
        return _scans()[1].clone()

    def images(self, side: int, limit: int | None = None) -> Tensor:
        enlarged = torch.nn.functional.interpolate(
            _scans()[0][:limit, None], size=(side, side), mode="bicubic", align_corners=False
        ).clamp(0, 1)
        return enlarged.expand(-1, 3, -1, -1).contiguous()


DIGITS = Digits()
SCENES = Scenes("scenes", count=50_000, seed=0)

BUNDLED: Mapping[str, LabeledImages] = {
    data.name: data
    for data in (
        DIGITS,
        SCENES,
        Scenes("scenes-val", count=5000, seed=1),
        Scenes("scenes-held-out", count=5000, seed=2, held_out=True),
    )
}
"""Name -> data: a source of prompts, of pairs, a reference, and what small teachers learn from."""
