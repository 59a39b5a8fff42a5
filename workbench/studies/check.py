"""Refusing a search space before its first trial."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence

from workbench.errors import RequestError, unknown_name
from workbench.studies.space import (
    Point,
    Real,
    SearchSpace,
    Value,
    as_text,
    at_point,
    matters,
    stored,
)
from workbench.training.config import RunConfig, known_keys
from workbench.training.overrides import setting_types

_NAMES = ("experiment", "variant", "seed")
_MEASURES = ("schedule.", "evaluation.")


def check_space(space: SearchSpace, base: RunConfig) -> None:
    """Refuse a space that has a point which the configuration would refuse.

    Beside :func:`check_entries`, tried are all pairs of probes (ends, and a value between), each
    with what makes it matter. What is impossible only elsewhere, or only in threes, surfaces in its
    trial, which fails alone.

    Raises:
        RequestError: as :func:`check_entries`, an empty space, or a value that the configuration
            refuses.
    """
    if not space:
        raise RequestError("The search space is empty: nothing to search.")
    check_entries(space)
    for point in corners(space):
        try:
            at_point(base, point)
        except RequestError as error:
            shown = ", ".join(f"{key} = {as_text(value)}" for key, value in point.items())
            raise RequestError(f"The search space reaches {shown}. {error}") from None


def check_entries(space: SearchSpace) -> None:
    """Refuse a space that suits no configuration.

    Raises:
        RequestError: an unknown key (names the nearest), a key that a study sets by itself, or a
            dimension or condition that is impossible.
    """
    for key, dimension in space.items():
        _check_key(key)
        if (problem := dimension.problem()) is not None:
            raise RequestError(f"The search space's {key}: {problem}.")
        _check_condition(space, key)


def corners(space: SearchSpace) -> Iterator[Point]:
    """Points at every probe and every pair of probes, other keys left as they are."""
    singles = [
        point
        for key, dimension in space.items()
        for value in dimension.probes()
        for point in _reaching(space, key, value)
    ]
    yield from singles
    for one, two in itertools.combinations(singles, 2):
        if all(two[key] == value for key, value in one.items() if key in two):
            yield {key: {**one, **two}[key] for key in space if key in one or key in two}


def read_point(space: SearchSpace, base: RunConfig, assignments: Sequence[str]) -> Point:
    """A person's point of a space: ``KEY=VALUE`` texts, checked like the space itself.

    Raises:
        RequestError: no "=", a key that is not searched (names the nearest), a value that is never
            drawn, a key that does not matter there, or a point that the configuration refuses.
    """
    point: dict[str, Value] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise RequestError(f"Cannot read {assignment!r}: expected KEY=VALUE.")
        if key not in space:
            raise unknown_name("key of the search space", key, space)
        point[key] = _read_value(space, key, text)
    for key in point:
        if not matters(space[key], point):
            raise RequestError(f"{key} is searched in {space[key]}: set that too.")
    at_point(base, point)
    return {key: point[key] for key in space if key in point}


def _read_value(space: SearchSpace, key: str, text: str) -> Value:
    try:
        value = stored(json.loads(text))
    except ValueError:
        value = text
    # Of equal texts the space's own value counts: a choice may be the text "4".
    options = {as_text(option): option for option in space[key].probes()}
    value = options.get(text, options.get(as_text(value), value))
    if not space[key].contains(value):
        raise RequestError(f"{key} = {text} is outside the search space's {space[key]}.")
    return value


def _check_key(key: str) -> None:
    if not setting_types(key):
        raise unknown_name("configuration key", key, known_keys())
    if key in _NAMES:
        raise RequestError(f"A study sets {key} of its runs by itself: it cannot be searched.")
    if key.startswith(_MEASURES):
        raise RequestError(
            f"{key} decides what is measured and when, not the result: trials that differ in it "
            "cannot be compared. Change it for the whole study with --set."
        )


def _check_condition(space: SearchSpace, key: str) -> None:
    earlier = list(itertools.takewhile(lambda other: other != key, space))
    for other, values in space[key].when.items():
        if other not in space:
            raise unknown_name(f"key in the condition of {key}", other, space)
        if other not in earlier:
            raise RequestError(
                f"{key} depends on {other}, which must come before it in the search space."
            )
        if isinstance(space[other], Real):
            raise RequestError(
                f"{key} depends on {other}, a real number, which is never exactly a given value."
            )
        if not values:
            raise RequestError(f"{key} depends on {other}, but on none of its values.")
        for value in values:
            if not space[other].contains(stored(value)):
                raise RequestError(
                    f"{key} depends on {other} = {as_text(value)}, but it is {space[other]}."
                )


def _reaching(space: SearchSpace, key: str, value: Value) -> Iterator[Point]:
    """Points with ``key`` at a value, one for each way in which its own condition can hold."""
    conditions = space[key].when
    for held in itertools.product(*conditions.values()):
        needed = dict(zip(conditions, map(stored, held), strict=True)) | {key: value}
        point: dict[str, Value] = {}
        # A condition's key may have a condition itself, which is then met by its first value.
        for other in reversed(list(space)):
            if other in needed:
                for further, allowed in space[other].when.items():
                    needed.setdefault(further, stored(allowed[0]))
        for other in space:
            if other in needed and matters(space[other], point):
                point[other] = needed[other]
        if key in point:
            yield point
