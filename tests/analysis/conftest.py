from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"


def by_path(name: str) -> ModuleType:
    """A script loaded by its path, as workbench loads it."""
    spec = importlib.util.spec_from_file_location(f"analysis_{name}", ANALYSIS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fid_curves() -> ModuleType:
    return by_path("fid_curves")


@pytest.fixture(scope="session")
def samples() -> ModuleType:
    return by_path("samples")
