from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from workbench.bundled import load_module

ANALYSIS = Path(__file__).parents[2] / "analysis"


def by_path(name: str) -> ModuleType:
    """A script loaded by its path, as workbench loads it."""
    return load_module(ANALYSIS / f"{name}.py")


@pytest.fixture(scope="session")
def fid_curves() -> ModuleType:
    return by_path("fid_curves")


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    return by_path("samples")
