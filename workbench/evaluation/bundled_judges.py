"""Classifiers of the bundled data sets: features for distances, and whether a prompt was met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.data.bundled import DIGITS
from workbench.evaluation import digits_classifier
from workbench.evaluation.observers import Observer


@dataclass(frozen=True)
class Judge:
    """A classifier as observers: its features, and the probability of what a prompt asks for."""

    features: Observer
    alignment: Observer


def _of_digits(cache: Path) -> Judge:
    classifier = digits_classifier.load_or_train(cache)
    return Judge(classifier, digits_classifier.DigitAlignment(classifier))


JUDGES: Mapping[str, Callable[[Path], Judge]] = {DIGITS.name: _of_digits}
"""Data set -> its judge, from the workspace's cache or trained now (a few seconds)."""
