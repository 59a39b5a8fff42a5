"""What importing the teachers must not cost, and torchvision beside a torch it does not fit."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, workbench.teachers, workbench.data.pairs, workbench.data.prompts
heavy = ("datasets", "diffusers", "transformers", "sklearn", "torchvision", "huggingface_hub")
print([name for name in heavy if name in sys.modules])
import torch, torchvision
from torchvision.transforms.functional import resize
print(resize(torch.ones(3, 8, 8), [4, 4]).sum().item())
"""


def test_teachers_import_no_diffusion_library_and_torchvision_imports_after_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split("\n")[:2] == ["[]", "48.0"], done.stderr
