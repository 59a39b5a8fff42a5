"""Distillation methods: pure training mathematics, no I/O, no processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from workbench.lookup import Lookup
from workbench.methods.adversarial import AdversarialSiD, SiD2aConfig
from workbench.methods.base import Loss, Method, Networks, Phase
from workbench.methods.batch import Batch, Pairs
from workbench.methods.dmd import DMD, DMDConfig, dmd_loss
from workbench.methods.dmd2 import DMD2, DMD2Config
from workbench.methods.f_distill import DIVERGENCES, FDistill, FDistillConfig
from workbench.methods.generator import (
    NOISE_RULES,
    DrawNoise,
    FewStepSampler,
    GeneratorConfig,
    step_times,
)
from workbench.methods.guidance import GuidanceConfig
from workbench.methods.kd import KD, KDConfig
from workbench.methods.meanflow import MeanFlow, MeanFlowConfig
from workbench.methods.scm import SCM, SCMConfig
from workbench.methods.sid import SiD, SiDConfig, fake_score_loss, sid_loss

MethodConfig = (
    SiDConfig
    | SiD2aConfig
    | DMDConfig
    | DMD2Config
    | FDistillConfig
    | SCMConfig
    | MeanFlowConfig
    | KDConfig
)
"""The settings of any method; ``name`` says which."""

__all__ = [
    "DIVERGENCES",
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
    "Pairs",
    "Phase",
    "SiD",
    "SiD2aConfig",
    "SiDConfig",
    "dmd_loss",
    "fake_score_loss",
    "make_method",
    "method_type",
    "sid_loss",
    "step_times",
]

_TYPES: Mapping[type[MethodConfig], type[Any]] = {
    SiDConfig: SiD,
    SiD2aConfig: AdversarialSiD,
    DMDConfig: DMD,
    DMD2Config: DMD2,
    FDistillConfig: FDistill,
    SCMConfig: SCM,
    MeanFlowConfig: MeanFlow,
    KDConfig: KD,
}

METHODS: Lookup[type[MethodConfig]] = Lookup(
    "method", {kind.model_fields["name"].default: kind for kind in get_args(MethodConfig)}
)
"""Name -> the settings of a method."""


def method_type(config: MethodConfig) -> type[Method]:
    """The method that a configuration describes."""
    kind: type[Method] = _TYPES[type(config)]
    return kind


def make_method(config: MethodConfig, generator: GeneratorConfig) -> Method:
    """The method that a configuration describes, with the student's sampler."""
    method: Method = _TYPES[type(config)](config, generator)
    return method
