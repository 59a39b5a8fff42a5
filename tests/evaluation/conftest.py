from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from workbench.data.bundled import DIGITS
from workbench.evaluation.digits_classifier import DigitsClassifier, load_or_train


@pytest.fixture(scope="session")
def cache_dir(evaluation_cache: Path) -> Path:
    """A workspace cache that holds the trained classifier."""
    return evaluation_cache


@pytest.fixture(scope="session")
def classifier(cache_dir: Path) -> DigitsClassifier:
    return load_or_train(cache_dir)


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 3, 32, 32) and labels (1797,)."""
    return DIGITS.images(32), DIGITS.labels


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)
