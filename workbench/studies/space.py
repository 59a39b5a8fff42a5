"""Search spaces: configuration keys and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.training.config import RunConfig, with_overrides

if TYPE_CHECKING:
    from optuna import Trial

Value = float | int | str


@dataclass(frozen=True)
class Real:
    """A real number in [low, high], searched on a log scale if asked."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, key: str) -> Value:
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[Value, ...]:
        return (self.low, self.high)


@dataclass(frozen=True)
class Integer:
    """An integer in [low, high]."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial: Trial, key: str) -> Value:
        return trial.suggest_int(key, self.low, self.high, log=self.log)

    def extremes(self) -> tuple[Value, ...]:
        return (self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]

    def suggest(self, trial: Trial, key: str) -> Value:
        index = trial.suggest_categorical(key, list(range(len(self.values))))
        return self.values[index]

    def extremes(self) -> tuple[Value, ...]:
        return self.values


SearchSpace = Mapping[str, Real | Integer | Choice]


def check_space(space: SearchSpace, base: RunConfig) -> None:
    """Refuse a space before its first trial.

    Raises:
        RequestError: an unknown configuration key, or a bound that the configuration refuses.
    """
    for key, dimension in space.items():
        for value in dimension.extremes():
            with_overrides(base, [f"{key}={value}"])


def suggest(space: SearchSpace, base: RunConfig, trial: Trial) -> RunConfig:
    """The base configuration with one point of the space."""
    return with_overrides(
        base, [f"{key}={dimension.suggest(trial, key)}" for key, dimension in space.items()]
    )
