"""Small networks for tests: real modules, small enough for finite differences."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from workbench.evaluation import Evaluator, build_evaluator
from workbench.teachers import PipelineTeacher
from workbench.teachers.base import Conditioning, OwnVelocity
from workbench.training.evaluation_config import EvaluationConfig
from workbench.training.parallel import Ranks
from workbench.workspace import Workspace


class SmallVelocity(nn.Module):
    """A smooth prompted velocity on 3-d latents, in any float dtype."""

    latent_shape = (3,)

    def __init__(self, seed: int, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) / shape[0] ** 0.5)

        self.first, self.bias, self.second = weights(5, width), weights(width), weights(width, 3)
        self.evaluated: list[int] = []

    def velocity(self, x_t: Tensor, t: Tensor, cond: Conditioning | None) -> Tensor:
        self.evaluated.append(len(x_t))
        label = torch.zeros_like(t) if cond is None else cond["label"].to(t)
        inputs = torch.cat([x_t, t[:, None], label[:, None]], dim=1)
        return torch.tanh(inputs @ self.first + self.bias) @ self.second


class ExactOwnVelocity(OwnVelocity):
    """Keeps float64, for finite differences; the trainer's networks answer in float32."""

    def forward(self, x_t: Tensor, t: Tensor, cond: Conditioning | None, _: bool = False) -> Tensor:
        self.evaluations += len(x_t)
        return self.predict(x_t, t, cond)


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """Ranks that are threads of one process, with a way of their own to send values."""

    send: Callable[[Any], list[Any]]

    def gather(self, value: Any) -> list[Any]:
        return self.send(value)


def labels(count: int) -> Conditioning:
    return Conditioning({"label": torch.arange(count) % 2 + 1})


def digits_evaluator(
    cache_dir: Path,
    samples: int = 2000,
    seed: int = 0,
    batch_size: int = 250,
    metrics: Sequence[str] = ("fid", "alignment"),
) -> Evaluator:
    """The evaluation of the task "digits"; the classifier lives in ``cache_dir``."""
    settings = EvaluationConfig.model_validate(
        {"reference": "digits", "metrics": tuple(metrics), "samples": samples, "seed": seed}
    )
    place = Workspace(cache_dir.parent)
    found = build_evaluator(place, settings, torch.device("cpu"))
    assert found is not None
    return replace(found, batch_size=batch_size)


EMPTY = Conditioning({"label": torch.zeros(1, dtype=torch.int64)})


def without_padding(cond: Conditioning, teacher: PipelineTeacher) -> Conditioning:
    """Zeros where a prompt has ended, as a store gives them."""
    name = teacher.family.token_mask
    if name is None:
        return cond
    mask = cond[name]
    assert 0 < mask.sum() < mask.numel()
    return Conditioning({**cond.tensors, "embeds": cond["embeds"] * mask[..., None]})


def in_precision(folder: Path, target: Path, precisions: Mapping[str, torch.dtype]) -> Path:
    """A copy of a teacher whose text encoders' files are of other types."""
    shutil.copytree(folder, target)
    for name, dtype in precisions.items():
        file = target / name / "model.safetensors"
        save_file({key: x.to(dtype) for key, x in load_file(file).items()}, file, {"format": "pt"})
    return target
