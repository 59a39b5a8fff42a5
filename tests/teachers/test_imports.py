"""What importing the package must not cost, and torchvision beside a torch it does not fit."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("diffusers", "transformers", "sklearn", "torchvision", "huggingface_hub", "tokenizers")


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_teachers_imports_no_diffusion_library() -> None:
    code = f"import sys, workbench.teachers; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_a_fresh_process(code) == "[]"


def test_torchvision_imports_after_preparation() -> None:
    code = """
from workbench.teachers._torchvision import prepare_torchvision
prepare_torchvision(); prepare_torchvision()
import torch, torchvision
from torchvision.transforms.functional import resize
print(resize(torch.ones(3, 8, 8), [4, 4]).sum().item())
"""
    assert in_a_fresh_process(code) == "48.0"
