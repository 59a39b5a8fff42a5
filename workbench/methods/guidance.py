"""Classifier-free guidance of score distillation: three scales, and the published choices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pydantic import Field, model_validator

from workbench.errors import unknown_name
from workbench.settings import FrozenConfig


class GuidanceConfig(FrozenConfig):
    """Classifier-free guidance scales; 1 = off, 0 = unconditional.

    A published choice's name (see :data:`GUIDANCE_PRESETS`) may stand wherever these settings do.
    """

    train_fake: float = Field(1.0, description="scale while the fake score is trained")
    eval_fake: float = Field(1.0, description="scale of the fake score in the generator's loss")
    eval_teacher: float = Field(1.0, description="scale of the teacher in the generator's loss")

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return guidance_scales(given) if isinstance(given, str) else given


class GuidancePreset(NamedTuple):
    """A published choice of the scales.

    Attributes:
        scales: number -> GuidanceConfig's scales.
        number: what the plain name means; ``NAME-2.5`` is the same choice with 2.5.
    """

    scales: Callable[[float], dict[str, float]]
    number: float | None = None


def _scales(train_fake: float, eval_fake: float, eval_teacher: float) -> dict[str, float]:
    return {"train_fake": train_fake, "eval_fake": eval_fake, "eval_teacher": eval_teacher}


GUIDANCE_PRESETS: Mapping[str, GuidancePreset] = {
    "off": GuidancePreset(lambda _: _scales(1.0, 1.0, 1.0)),
    "long-short": GuidancePreset(lambda scale: _scales(scale, scale, scale), 4.5),
    "zero-cfg": GuidancePreset(lambda _: _scales(0.0, 0.0, 1.0)),
    "anti-cfg": GuidancePreset(lambda scale: _scales(-scale, -scale, 1.0), 1.0),
}
"""Long-short guidance (arXiv 2406.01561), Zero-CFG and Anti-CFG (arXiv 2505.12674).

Long-short guides all three alike, 4.5 in the runs of arXiv 2509.25127. Zero-CFG leaves the teacher
unguided and the fake score without prompts; Anti-CFG guides the fake score by a negative scale."""


def guidance_scales(name: str) -> dict[str, float]:
    """The three scales of a named choice, as ``GuidanceConfig`` has them.

    Raises:
        RequestError: no such name, or no number where one follows it.
    """
    for known, preset in GUIDANCE_PRESETS.items():
        if name == known:
            return preset.scales(preset.number or 0.0)
        number = name.removeprefix(f"{known}-")
        if preset.number is not None and _SCALE.fullmatch(number):
            return preset.scales(float(number))
    forms = [
        form
        for known, preset in GUIDANCE_PRESETS.items()
        for form in ([known] if preset.number is None else [known, f"{known}-{preset.number:g}"])
    ]
    raise unknown_name("guidance", name, forms)


_SCALE = re.compile(r"\d+(\.\d+)?")
"""The number behind a preset's name."""
