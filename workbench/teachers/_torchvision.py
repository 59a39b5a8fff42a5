"""Makes torchvision importable beside a torch build that its compiled operators do not fit.

torchvision's PyPI wheel is a CUDA build: beside a CPU torch its operators fail to load, and then
`import torchvision` (which diffusers' pipelines and transformers' image processors do) dies with
`operator torchvision::nms does not exist`. Declaring the operators it registers metadata for is
enough; calling them still fails, but nothing here does.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[torch.library.Library] = []  # a Library's declarations end with the object


@cache
def prepare_torchvision() -> None:
    """Declare torchvision's operators where its compiled ones cannot be loaded.

    Must run before anything imports torchvision; does nothing without torchvision.
    """
    spec = importlib.util.find_spec("torchvision")
    if "torchvision" in sys.modules or spec is None or spec.origin is None:
        return
    if _compiled_operators_load(Path(spec.origin).parent):
        return
    libraries: Any = torch.library  # untyped in torch
    library = libraries.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)


def _compiled_operators_load(package: Path) -> bool:
    operators: Any = torch.ops
    for compiled in (*package.glob("_C*.so"), *package.glob("_C*.pyd")):
        try:
            operators.load_library(str(compiled))
        except OSError:
            continue
    return hasattr(operators.torchvision, "nms")
