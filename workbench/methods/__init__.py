"""Distillation methods: pure training mathematics, no I/O, no processes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from workbench.methods.adversarial import AdversarialSiD, SiD2aConfig
from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch, Pairs, PairSource
from workbench.methods.generator import (
    NOISE_RULES,
    DrawNoise,
    FewStepSampler,
    GeneratorConfig,
    generate,
    get_noise_rule,
    step_times,
)
from workbench.methods.score import GuidanceConfig, fake_score_loss
from workbench.methods.sid import SiD, SiDConfig, sid_loss

MethodConfig = SiDConfig | SiD2aConfig
"""The settings of any method, told apart by ``name``."""

__all__ = [
    "METHODS",
    "NOISE_RULES",
    "Batch",
    "DrawNoise",
    "FewStepSampler",
    "GeneratorConfig",
    "GuidanceConfig",
    "Loss",
    "Method",
    "MethodConfig",
    "Networks",
    "PairSource",
    "Pairs",
    "Phase",
    "SiD",
    "SiD2aConfig",
    "SiDConfig",
    "fake_score_loss",
    "generate",
    "get_noise_rule",
    "make_method",
    "method_type",
    "sid_loss",
    "step_times",
]

_TYPES: Mapping[type[MethodConfig], type[Any]] = {
    SiDConfig: SiD,
    SiD2aConfig: AdversarialSiD,
}

METHODS: Mapping[str, type[MethodConfig]] = MappingProxyType(
    {kind.model_fields["name"].default: kind for kind in get_args(MethodConfig)}
)
"""Name -> the settings of a method."""


def method_type(config: MethodConfig) -> type[Method]:
    """The method that a configuration describes."""
    kind: type[Method] = _TYPES[type(config)]
    return kind


def make_method(config: MethodConfig, generator: GeneratorConfig) -> Method:
    """The same, bound to the student's sampler."""
    method: Method = _TYPES[type(config)](config, generator)
    return method
