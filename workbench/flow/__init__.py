"""The Gaussian calculus: interpolants, targets, densities of t, weightings, shifts, solvers."""

from __future__ import annotations

from workbench.flow.densities import (
    DENSITIES,
    LogitNormal,
    TimeDensity,
    get_density,
    register_density,
)
from workbench.flow.interpolants import (
    INTERPOLANTS,
    Coefficients,
    Interpolant,
    RectifiedFlow,
    TrigFlow,
    expand_like,
)
from workbench.flow.noise import NoiseSource
from workbench.flow.shift import shift_time
from workbench.flow.solvers import euler, uniform_times
from workbench.flow.targets import (
    TARGETS,
    convert,
    loss_weight,
    posterior_mean,
    prediction_from,
    rectified_velocity,
    x0_from_velocity,
)
from workbench.flow.weightings import (
    WEIGHTINGS,
    SampleWeighting,
    TimeWeighting,
    Weighting,
    register_weighting,
)

__all__ = [
    "DENSITIES",
    "INTERPOLANTS",
    "TARGETS",
    "WEIGHTINGS",
    "Coefficients",
    "Interpolant",
    "LogitNormal",
    "NoiseSource",
    "RectifiedFlow",
    "SampleWeighting",
    "TimeDensity",
    "TimeWeighting",
    "TrigFlow",
    "Weighting",
    "convert",
    "euler",
    "expand_like",
    "get_density",
    "loss_weight",
    "posterior_mean",
    "prediction_from",
    "rectified_velocity",
    "register_density",
    "register_weighting",
    "shift_time",
    "uniform_times",
    "x0_from_velocity",
]
