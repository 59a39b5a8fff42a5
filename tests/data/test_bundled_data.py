"""The embedded data set and its prompts."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from workbench.data.bundled import (
    DIGITS,
    PROMPTS,
    WORDINGS,
    prompt_label,
)
from workbench.errors import RequestError
from workbench.training.recipes import run_config


def test_images_are_the_real_scans_enlarged() -> None:
    images, labels = DIGITS.images(32), DIGITS.labels
    assert images.shape == (1797, 3, 32, 32)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    scans = torch.from_numpy(load_digits().images / 16).float()
    averaged = torch.nn.functional.avg_pool2d(images, 4)
    assert (averaged - scans[:, None]).abs().mean() < 0.05
    assert torch.equal(labels, torch.from_numpy(load_digits().target).long())


def test_every_digit_has_the_same_wordings() -> None:
    assert len(WORDINGS) >= 4
    assert len(set(PROMPTS)) == len(PROMPTS) == 10 * len(WORDINGS)
    for label in range(10):
        assert [prompt_label(prompt) for prompt in DIGITS.prompts_of(label)] == [label] * len(
            WORDINGS
        )
    shown = run_config().evaluation.shown
    assert [prompt_label(prompt) for prompt in shown] == list(range(10))


@pytest.mark.parametrize(
    ("prompt", "label"), [("A photo of 7!", 7), ("ZERO", 0), ("the number nine, 9", 9)]
)
def test_the_label_of_a_free_prompt(prompt: str, label: int) -> None:
    assert prompt_label(prompt) == label


@pytest.mark.parametrize(
    "prompt",
    [
        *("", "a cat", "the number 12", "a one and a two", "someone"),
        *("two dogs", "a photo of two dogs in white ink", "7 people", "the digit 7 on a wall"),
    ],
)
def test_a_prompt_without_one_digit_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="exactly one"):
        prompt_label(prompt)


def test_class_counts_are_the_data_s_own() -> None:
    counts = DIGITS.class_counts()
    assert sum(counts.values()) == 1797
    assert counts[3] == int((load_digits().target == 3).sum())
    assert len(set(counts.values())) > 1
