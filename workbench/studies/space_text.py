"""Search spaces as people write them: a TOML table, or options on a command line.

In a table a list is a choice, and ``{ low = ..., high = ... }`` a range, with ``log = true`` or, of
whole numbers, ``step = ...``. With ``when = { KEY = [VALUES] }`` it matters only where other
keys of the space have one of these values; a choice then reads ``{ values = [...], when = ... }``.
An option says the same as ``KEY=LOW..HIGH``, ``KEY=LOW..HIGH:log``, ``KEY=LOW..HIGH:STEP`` and
``KEY=A|B|C``, followed by `` if KEY=A|B`` and any number of `` and KEY=A|B``.

A range of a setting that takes whole numbers alone is one of integers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from workbench.errors import RequestError, unknown_name
from workbench.studies.space import Choice, Dimension, Integer, Real, SearchSpace
from workbench.training.config import known_keys
from workbench.training.overrides import flattened, setting_types, takes_whole_numbers

_RANGE, _CHOICE = ("low", "high", "log", "step", "when"), ("values", "when")
_IN_TABLES = "{ low = ..., high = ... } or a list of values"
_IN_OPTIONS = "KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH:STEP or KEY=A|B"
_IF, _AND = " if ", " and "


def read_table(table: Mapping[str, Any]) -> SearchSpace:
    """A space from a TOML table, whose keys may be dotted or nested.

    Raises:
        RequestError: names the key, and what is expected there.
    """
    return {key: _dimension(key, entry) for key, entry in _entries(table)}


def read_options(options: Iterable[str]) -> SearchSpace:
    """A space from ``--space`` options, in their order.

    Raises:
        RequestError: quotes the option, and says what is expected.
    """
    space: dict[str, Dimension] = {}
    for option in options:
        key, dimension = _option(option)
        if key in space:
            raise RequestError(f"--space gives {key} twice: one range or choice for each setting.")
        space[key] = dimension
    return space


def _entries(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and what stands at them; a table there is an entry, or holds more of them."""
    for name, content in table.items():
        key = f"{prefix}{name}"
        described = isinstance(content, Mapping) and not {*_RANGE, *_CHOICE}.isdisjoint(content)
        group = isinstance(content, Mapping) and not described and not _is_leaf(key)
        yield from _entries(content, f"{key}.") if group else ((key, content),)


def _is_leaf(key: str) -> bool:
    """Whether a setting is a plain value, so that a table at its key can only be a range of it."""
    kinds = setting_types(key) - {type(None)}
    return any(not issubclass(kind, BaseModel | Mapping) for kind in kinds)


def _check_known(key: str) -> None:
    if not setting_types(key):
        raise unknown_name("configuration key", key, known_keys())


def _dimension(key: str, entry: Any) -> Dimension:
    _check_known(key)
    if isinstance(entry, list):
        return Choice(_values(entry))
    if not isinstance(entry, Mapping):
        raise RequestError(f"{key}: expected {_IN_TABLES} (got {entry!r}).")
    known = _CHOICE if "values" in entry else _RANGE
    for name in entry:
        if name not in known:
            raise RequestError(f"{key}: {unknown_name('entry', name, known)}")
    when = _when(key, entry.get("when", {}))
    if known is _CHOICE:
        if not isinstance(entry["values"], list):
            raise RequestError(f"{key}: values is expected to be a list (got {entry['values']!r}).")
        return Choice(_values(entry["values"]), when=when)
    if "low" not in entry or "high" not in entry:
        raise RequestError(f"{key}: expected {_IN_TABLES}, and low or high is missing.")
    return _range(
        key, entry["low"], entry["high"], entry.get("log", False), entry.get("step"), when
    )


def _when(key: str, conditions: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(conditions, Mapping):
        raise RequestError(f"{key}: when is expected to be {{ KEY = [VALUES] }}.")
    found = flattened(conditions)
    for other, values in found.items():
        if not isinstance(values, list):
            raise RequestError(
                f"{key}: when {other} is expected to be a list of values (got {values!r})."
            )
    return {other: _values(values) for other, values in found.items()}


def _values(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


def _range(
    key: str, low: Any, high: Any, log: Any, step: Any, when: Mapping[str, tuple[Any, ...]]
) -> Dimension:
    ends = {"low": low, "high": high} | ({} if step is None else {"step": step})
    for name, value in ends.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(f"{key}: {name} is expected to be a number (got {value!r}).")
    if not isinstance(log, bool):
        raise RequestError(f"{key}: log is expected to be true or false (got {log!r}).")
    if not takes_whole_numbers(key):
        if step is not None:
            raise RequestError(f"{key}: a step is for settings that take whole numbers alone.")
        return Real(float(low), float(high), log, when=when)
    for name, value in ends.items():
        if isinstance(value, float) and not value.is_integer():
            raise RequestError(f"{key} takes whole numbers, and {name} is {value:g}.")
    return Integer(int(low), int(high), log, 1 if step is None else int(step), when=when)


def _option(option: str) -> tuple[str, Dimension]:
    main, has_condition, conditions = option.partition(_IF)
    key, equals, text = (part.strip() for part in main.partition("="))
    if not key or not equals:
        raise _unreadable(option)
    _check_known(key)
    when = {}
    for condition in conditions.split(_AND) if has_condition else ():
        other, other_equals, allowed = (part.strip() for part in condition.partition("="))
        if not other or not other_equals or not allowed:
            raise RequestError(f"Cannot read --space {option!r}: expected KEY=A|B after 'if'.")
        when[other] = _texts(allowed)
    if "|" in text:
        return key, Choice(_texts(text), when=when)
    low, dots, rest = text.partition("..")
    high, colon, scale = rest.partition(":")
    if not dots or (colon and not scale):
        raise _unreadable(option)
    log = scale == "log"
    step = _number(option, scale) if colon and not log else None
    return key, _range(key, _number(option, low), _number(option, high), log, step, when)


def _number(option: str, text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise _unreadable(option) from None


def _texts(text: str) -> tuple[Any, ...]:
    """Values between bars, as assignments read them: JSON where they parse as such, else text."""

    def read(part: str) -> Any:
        try:
            return json.loads(part)
        except ValueError:
            return part

    return _values(read(part.strip()) for part in text.split("|"))


def _unreadable(option: str) -> RequestError:
    return RequestError(f"Cannot read --space {option!r}: expected {_IN_OPTIONS}.")
