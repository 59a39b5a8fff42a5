"""What an exported student says about itself in student.json, and what identifies its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from workbench.errors import RequestError
from workbench.methods import method_type, step_times
from workbench.settings import FrozenConfig
from workbench.teachers.family import Family
from workbench.teachers.json_file import read_json
from workbench.teachers.student_pipeline import STUDENT_RECORD, plain_loading
from workbench.training import formats
from workbench.training.config import RunConfig


class TeacherReference(FrozenConfig):
    """Which teacher: as it was asked for, its files' hash, and the hub's revision if it has one."""

    name: str
    fingerprint: str
    revision: str | None = None


class StudentRecord(FrozenConfig):
    """An exported student, machine-readable."""

    format: Literal[1] = 1
    workbench: str = Field(description="version that exported it")
    run: str
    nimg: int = Field(ge=0, description="generated images it was trained on")
    teacher: TeacherReference
    weights: str = Field(description="fingerprint of the run's averaged weights")
    dtype: str = Field(description="of the weights in this folder")
    call: Mapping[str, Any] = Field(description="arguments of the plain call, besides the prompt")
    config: RunConfig = Field(description="of the run; its generator says how to sample")

    @property
    def fewest_steps(self) -> int:
        """After how many of its steps it makes samples: any, or all."""
        return 1 if method_type(self.config.method).partial_steps else self.config.generator.steps

    def defaults(self, family: Family) -> dict[str, Any]:
        """The ``student`` of an exported model_index.json, which the module beside it reads.

        A stock class knows no such key, and diffusers quotes it in a warning: so it says how.
        """
        generator = self.config.generator
        return {
            "call": dict(self.call),
            "fewest_steps": self.fewest_steps,
            "needs": ", ".join(plain_loading(family)),
            "sigmas": step_times(generator.steps, generator.flow_shift).tolist(),
        }

    @field_validator("config", mode="before")
    @classmethod
    def _of_an_earlier_format(cls, config: Any) -> Any:
        return formats.upgraded(config) if isinstance(config, Mapping) else config

    def save(self, folder: Path) -> None:
        text = self.model_dump_json(indent=1) + "\n"
        (folder / STUDENT_RECORD).write_text(text, encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> StudentRecord:
        """The record of an exported folder.

        Raises:
            RequestError: damaged, or of another version; names the first field that is wrong.
        """
        path = folder / STUDENT_RECORD
        try:
            return StudentRecord.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RequestError(
                f"{path} is damaged or of another version: {where}: {first['msg']}."
            ) from None


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits of names, shapes, types and bits of weights, wherever they came from."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        bits: Any = value.reshape(-1).view(torch.uint8).numpy()
        digest.update(bits)
    return digest.hexdigest()[:16]
