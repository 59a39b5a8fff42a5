"""What a run measures, and with which samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from workbench.data.prompts import PromptsConfig
from workbench.metrics import DRIFT_METRICS, EVAL, metric_info
from workbench.settings import FrozenConfig

MOST_SEEDS = 2**33
"""Evaluation seeds are below: stock pipelines draw image i of a seed from 10^9 seed + i."""


class EvaluationConfig(FrozenConfig):
    """What is measured: during the run the student at K steps, at its end the whole table.

    Without metrics nothing is scored against a reference or by a network; how the samples of the
    prompts :attr:`shown` drift from the teacher's is measured all the same.
    """

    reference: str | None = Field(
        None, min_length=1, description="real images to compare with, of `references list`"
    )
    metrics: tuple[str, ...] = Field((), description="what is measured; [] = no scores")
    primary: str | None = Field(
        None, description="the metric that judges the run; none = the first of metrics"
    )
    prompts: PromptsConfig | None = Field(
        None, description="prompts to score on: a source; none = the reference's captions"
    )
    shown: tuple[str, ...] = Field(
        (), description="prompts of sample grids and drift; [] = the first ten that there are"
    )
    seeds_per_prompt: int = Field(
        4, ge=2, description="samples of each shown prompt, for drift and diversity"
    )
    samples: int = Field(2000, ge=2, description="images per score")
    seed: int | None = Field(
        None,
        ge=0,
        lt=MOST_SEEDS,
        description="evaluation seed: of the noise that samples are drawn from; none = the run's "
        "own seed, so that runs of several seeds share no noise",
    )
    fresh_seeds: int = Field(
        2,
        ge=0,
        description="further evaluation seeds, at which the last and the best weights are scored "
        "when the run ends",
    )
    batch_size: PositiveInt | Literal["auto"] = Field(
        250, description="images drawn at once; auto = what the device's memory has room for"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the networks that draw, in a run what training.precision computes with; "
        "evaluate, sample and export use it too",
    )
    weights: Mapping[str, str] = Field(
        {},
        description="files of metrics' networks by name, instead of WORKSPACE/weights; or the "
        "name of a network of the package, such as scenes-clip",
    )
    stock_steps: tuple[int, ...] = Field(
        (), description="steps of the teacher as its users run it: its own scheduler and guidance"
    )
    stock_guidance: float | None = Field(
        None, description="guidance_scale of that call; none = the pipeline's own"
    )
    teacher_steps: tuple[int, ...] = Field(
        (50, 20, 4), description="Euler steps of the teacher, evenly spaced before the shift"
    )
    student_steps: tuple[int, ...] | None = Field(
        None, min_length=1, description="generator steps of the student; none = K, K/2, ..., 1"
    )
    cfg_scale: float = Field(1.0, description="guidance of the teacher's samples")
    teacher_flow_shift: float = Field(
        1.0, gt=0, description="shift of the teacher's Euler times; SD3's own is 3"
    )

    @field_validator("teacher_steps", "student_steps", "stock_steps")
    @classmethod
    def _positive(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if any(step < 1 for step in steps or ()):
            raise ValueError("every step count must be at least 1")
        return steps

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if metric_info(name).group != EVAL:
                raise ValueError(f"{name} is measured in every run; leave it out of metrics")
        if len(set(names)) < len(names):
            raise ValueError(f"{list(names)} names one twice")
        return names

    @model_validator(mode="after")
    def _measured(self) -> Self:
        possible = (*self.metrics, *DRIFT_METRICS)
        if self.primary is not None and self.primary not in possible:
            raise ValueError(
                f"the primary metric {self.primary!r} is not measured: metrics are "
                f"{', '.join(self.metrics) or 'none'}"
            )
        if not self.teacher_steps and not self.stock_steps:
            raise ValueError("teacher_steps and stock_steps are both empty: no teacher to compare")
        if self.stock_guidance is not None and not self.stock_steps:
            raise ValueError(
                f"stock_guidance={self.stock_guidance:g} is of stock_steps, which has none: set it "
                "to null"
            )
        comparing = [name for name in self.metrics if metric_info(name).needs_reference]
        if comparing and self.reference is None:
            raise ValueError(
                f"{comparing[0]} compares with real images: set evaluation.reference to one of "
                "`workbench references list`, or leave it out of evaluation.metrics"
            )
        return self

    def at_seed(self, seed: int) -> EvaluationConfig:
        """The same settings with another evaluation seed."""
        return self.model_copy(update={"seed": seed})

    @property
    def primary_metric(self) -> str | None:
        """The metric that selects a run's best weights; None if nothing is measured."""
        return self.primary or next(iter(self.metrics), None)
