"""Distillation methods: pure training mathematics, no I/O, no processes."""

from __future__ import annotations

from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch
from workbench.methods.generator import (
    NOISE_RULES,
    DrawNoise,
    FewStepSampler,
    GeneratorConfig,
    generate,
    get_noise_rule,
    step_times,
)
from workbench.methods.sid import GuidanceConfig, SiD, SiDConfig, fake_score_loss, sid_loss

MethodConfig = SiDConfig
"""The settings of any method; a union discriminated by ``name`` once there are several."""

__all__ = [
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
    "Phase",
    "SiD",
    "SiDConfig",
    "fake_score_loss",
    "generate",
    "get_noise_rule",
    "make_method",
    "method_roles",
    "sid_loss",
    "step_times",
]

_METHODS: dict[type[MethodConfig], type[SiD]] = {SiDConfig: SiD}


def method_roles(config: MethodConfig) -> tuple[str, ...]:
    """The networks that a method trains."""
    return _METHODS[type(config)].roles


def make_method(config: MethodConfig, generator: GeneratorConfig) -> Method:
    """The method that a configuration describes, bound to the student's sampler."""
    return _METHODS[type(config)](config, generator)
