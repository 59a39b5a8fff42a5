"""scikit-learn's handwritten digits as a text-to-image data set.

1797 real 8 x 8 scans (Alpaydin & Kaynak 1998, UCI "Optical Recognition of Handwritten Digits"),
enlarged to the size of an image, with prompts in several wordings for every digit.
"""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import Tensor

from workbench.errors import RequestError
from workbench.teachers.labelled_images import LabelledImages
from workbench.teachers.numerals import NUMBER_WORDS, number_of, words_of

WORDINGS = (
    "a handwritten {word}",
    "the digit {numeral}",
    "a photo of the number {numeral}",
    "a scan of the numeral {word}",
    "{word} written by hand",
    "number {word} in white ink",
)
"""How one asks for a digit; each occurs with all ten."""

_OTHER_WORDS = frozenset(re.findall(r"[a-z]+", " ".join(WORDINGS).replace("{word}", "")))
"""What a prompt may say beside the digit: "two dogs" asks for none."""

_LARGEST_PIXEL = 16.0


def _worded(wording: str, label: int) -> str:
    return wording.format(word=NUMBER_WORDS[label], numeral=label)


PROMPTS: tuple[str, ...] = tuple(
    _worded(wording, label) for label in range(10) for wording in WORDINGS
)
"""Every wording of every digit, 60 prompts, the wordings of a digit together."""


def prompt_label(prompt: str) -> int:
    """The digit that a prompt asks for, as a word or a numeral, in words of :data:`WORDINGS`.

    Raises:
        RequestError: the prompt names no digit, or several, or speaks of something else.
    """
    named, others = set(), []
    for word in words_of(prompt):
        number = number_of(word)
        if number is not None:
            named.add(number)
        elif word not in _OTHER_WORDS:
            others.append(word)
    if len(named) != 1:
        found = "no digit" if not named else "the digits " + ", ".join(map(str, sorted(named)))
        raise RequestError(f"The prompt {prompt!r} names {found}; expected exactly one of 0-9.")
    if others:
        raise RequestError(
            f"The prompt {prompt!r} asks for more than a digit ({others[0]!r}); expected exactly "
            f"one of 0-9 in words like {PROMPTS[0]!r}."
        )
    return named.pop()


def load_digits_images(size: int = 32) -> tuple[Tensor, Tensor]:
    """All 1797 digits, white on black, in the data set's own order.

    Enlarged by bicubic interpolation: averaging a square of the result over its area gives the
    scan's pixel back closely, and the strokes look like strokes.

    Returns:
        images float32 (1797, 3, size, size) in [0, 1]; labels int64 (1797,).
    """
    scans, labels = _scans()
    enlarged = torch.nn.functional.interpolate(
        scans[:, None], size=(size, size), mode="bicubic", align_corners=False
    ).clamp(0, 1)
    return enlarged.expand(-1, 3, -1, -1).contiguous(), labels.clone()


@cache
def _scans() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits().images, load_digits().target
    return torch.from_numpy(images / _LARGEST_PIXEL).float(), torch.from_numpy(labels).long()


DIGITS = LabelledImages(
    name="digits",
    identity="sklearn-digits-1797",
    origin="sklearn.datasets",
    prompts=PROMPTS,
    wordings=len(WORDINGS),
    load=load_digits_images,
)
