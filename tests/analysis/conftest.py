from __future__ import annotations

from pathlib import Path

from workbench.bundled import load_module
from workbench.plotting import Script

ANALYSIS = Path(__file__).parents[2] / "analysis"


def script_of(name: str) -> Script:
    """A script loaded by its path, as ``workbench figures`` loads it."""
    script: Script = load_module(ANALYSIS / f"{name}.py").SCRIPT
    return script
