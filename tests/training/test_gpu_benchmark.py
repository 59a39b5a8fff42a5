"""The GPU benchmark runs to its end on tiny shapes, and refuses a machine without a GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_figure_is_there(tmp_path: Path) -> None:
    done = run("--tiny", "--cases", "SANA", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text())["cases"]
    assert figures.pop("case") == "SANA, tiny"
    assert figures.pop("mfu") == "unknown"  # no data sheet has this machine
    assert all(math.isfinite(value) for value in figures.values()), figures
    assert figures["peak_bytes"] == pytest.approx(figures["estimated_bytes"], rel=0.15)
    assert "| SANA, tiny | 4 (2) |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("There is no GPU here")
