"""Classifier-free guidance of score distillation: three scales, and the published choices."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, model_validator

from workbench.errors import unknown_name
from workbench.settings import FrozenConfig


class GuidanceConfig(FrozenConfig):
    """Classifier-free guidance scales; 1 = off, 0 = unconditional.

    A published choice's name (see :func:`guidance_scales`) may stand wherever these settings do.
    """

    train_fake: float = Field(1.0, description="scale while the fake score is trained")
    eval_fake: float = Field(1.0, description="scale of the fake score in the generator's loss")
    eval_teacher: float = Field(1.0, description="scale of the teacher in the generator's loss")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return guidance_scales(given) if isinstance(given, str) else given


_USUAL = {"long-short": 4.5, "anti-cfg": 1.0}
"""The scale of a published choice that its plain name means; ``NAME-2.5`` is the same with 2.5."""

_NAME = re.compile(r"(.*?)(?:-(\d+(?:\.\d+)?))?", re.DOTALL)


def guidance_scales(name: str) -> dict[str, float]:
    """The three scales of a published choice, as ``GuidanceConfig`` has them.

    Long-short guidance (arXiv 2406.01561) guides all three alike, by 4.5 in the runs of
    arXiv 2509.25127. Zero-CFG (arXiv 2505.12674) leaves the teacher unguided and the fake score
    without prompts; Anti-CFG (there too) guides the fake score by a negative scale.

    Raises:
        RequestError: no such name, or a number after one that takes none.
    """
    plain, number = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]  # all texts match
    scale = float(number) if number else _USUAL.get(plain, 1.0)
    choices = {
        "off": (1.0, 1.0, 1.0),
        "long-short": (scale, scale, scale),
        "zero-cfg": (0.0, 0.0, 1.0),
        "anti-cfg": (-scale, -scale, 1.0),
    }
    if plain not in choices or (number and plain not in _USUAL):
        numbered = (f"{known}-{usual:g}" for known, usual in _USUAL.items())
        raise unknown_name("guidance", name, (*choices, *numbered))
    return dict(zip(GuidanceConfig.model_fields, choices[plain], strict=True))
