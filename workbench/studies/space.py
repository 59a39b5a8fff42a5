"""Search spaces: configuration keys, what each may be, and when it matters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from workbench.training.config import RunConfig
from workbench.training.overrides import with_overrides

if TYPE_CHECKING:
    from optuna import Trial

Value: TypeAlias = float | int | str | bool | None
"""What Optuna stores: a list or tuple of a :class:`Choice` becomes its JSON text."""

When: TypeAlias = Mapping[str, tuple[Any, ...]]
"""Other keys of the space and the values at which a dimension matters; all have to hold."""

Point: TypeAlias = Mapping[str, Value]
"""One point of a space: values of the keys that matter there, in the space's order."""


@dataclass(frozen=True)
class Real:
    """A real number in [low, high], searched on a log scale if asked."""

    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        return f"{self.low:g} .. {self.high:g}{' (log)' if self.log else ''}{_when_text(self.when)}"

    def suggest(self, trial: Trial, key: str) -> Value:
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def probes(self) -> tuple[Value, ...]:
        """Values that stand for all: the ends, and one between that is no round number."""
        inside = self.low + (self.high - self.low) / math.pi
        return tuple(dict.fromkeys((self.low, self.high, inside)))

    def problem(self) -> str | None:
        """Why no value can be drawn; None if one can."""
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in (self.low, self.high)):
            return f"expected finite numbers (got {self.low!r} and {self.high!r})"
        return _range_problem(self.low, self.high, self.log)

    def contains(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Integer:
    """An integer low, low + step, ... up to high, searched on a log scale if asked."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        step = "" if self.step == 1 else f" by {self.step}"
        log = " (log)" if self.log else ""
        return f"{self.low} .. {self.high}{step}{log}{_when_text(self.when)}"

    def suggest(self, trial: Trial, key: str) -> Value:
        return trial.suggest_int(key, self.low, self.high, step=self.step, log=self.log)

    def probes(self) -> tuple[Value, ...]:
        """Values that stand for all: the ends, and the one after the first."""
        return tuple(dict.fromkeys((self.low, self.high, min(self.low + self.step, self.high))))

    def problem(self) -> str | None:
        """Why no value can be drawn; None if one can."""
        if not all(type(v) is int for v in (self.low, self.high, self.step)):
            return f"expected whole numbers (got {self.low!r}, {self.high!r}, {self.step!r})"
        if self.step < 1 or (self.high - self.low) % self.step:
            return f"a step of {self.step} does not lead from {self.low} to {self.high}"
        if self.log and self.step != 1:
            return "a log scale has no step"
        return _range_problem(self.low, self.high, self.log)

    def contains(self, value: Value) -> bool:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole and value in range(self.low, self.high + 1, self.step)


@dataclass(frozen=True)
class Choice:
    """One of several values, stored as they are, so that every dashboard shows them."""

    values: tuple[Any, ...]
    when: When = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        return f"{' | '.join(as_text(v) for v in self.values)}{_when_text(self.when)}"

    def suggest(self, trial: Trial, key: str) -> Value:
        chosen: Value = trial.suggest_categorical(key, self.probes())
        return chosen

    def probes(self) -> tuple[Value, ...]:
        """Every value."""
        return tuple(stored(value) for value in self.values)

    def problem(self) -> str | None:
        """Why no value can be drawn; None if one can."""
        if not self.values:
            return "expected at least one value"
        texts = [as_text(value) for value in self.values]
        doubled = sorted({text for text in texts if texts.count(text) > 1})
        return f"the value {doubled[0]} is there twice" if doubled else None

    def contains(self, value: Value) -> bool:
        return as_text(value) in [as_text(own) for own in self.values]


Dimension: TypeAlias = Real | Integer | Choice
SearchSpace: TypeAlias = Mapping[str, Dimension]

_KINDS: dict[str, type[Dimension]] = {"real": Real, "integer": Integer, "choice": Choice}


def stored(value: Any) -> Value:
    """A value as Optuna's storage takes it."""
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def as_text(value: Any) -> str:
    """A value as an assignment takes it: ``KEY=<text>``."""
    kept = stored(value)
    return kept if isinstance(kept, str) else json.dumps(kept)


def matters(dimension: Dimension, point: Point) -> bool:
    """Whether the dimension is part of a point whose earlier keys are given."""
    return all(
        key in point and as_text(point[key]) in [as_text(value) for value in values]
        for key, values in dimension.when.items()
    )


def suggest(space: SearchSpace, trial: Trial) -> Point:
    """Draw one point; a trial that has values already (a retry) keeps them."""
    point: dict[str, Value] = {}
    for key, dimension in space.items():
        if matters(dimension, point):
            point[key] = dimension.suggest(trial, key)
    return point


def at_point(base: RunConfig, point: Point) -> RunConfig:
    """The base configuration with a point's values.

    Raises:
        RequestError: an unknown key or a refused value.
    """
    return with_overrides(base, [f"{key}={as_text(value)}" for key, value in point.items()])


def space_to_json(space: SearchSpace) -> dict[str, Any]:
    """Plain values that :func:`space_from_json` reads, for a study's own record."""
    names = {kind: name for name, kind in _KINDS.items()}
    return {
        key: {
            "kind": names[type(dimension)],
            **{name: value for name, value in vars(dimension).items() if name != "when"},
            "when": {other: list(values) for other, values in dimension.when.items()},
        }
        for key, dimension in space.items()
    }


def space_from_json(values: Mapping[str, Any]) -> dict[str, Dimension]:
    """The space behind :func:`space_to_json`'s values.

    Raises:
        KeyError, TypeError: not such values.
    """
    space = {}
    for key, content in values.items():
        fields = dict(content)
        kind = _KINDS[fields.pop("kind")]
        when = {other: tuple(allowed) for other, allowed in fields.pop("when").items()}
        if "values" in fields:
            fields["values"] = tuple(
                tuple(value) if isinstance(value, list) else value for value in fields["values"]
            )
        space[key] = kind(**fields, when=when)
    return space


def _range_problem(low: float, high: float, log: bool) -> str | None:
    if low > high:
        return f"the lower end {low:g} is above the upper end {high:g}"
    return f"a log scale needs a lower end above 0 (got {low:g})" if log and low <= 0 else None


def _when_text(when: When) -> str:
    parts = [f"{key} is {' | '.join(as_text(v) for v in vs)}" for key, vs in when.items()]
    return f", where {' and '.join(parts)}" if parts else ""
