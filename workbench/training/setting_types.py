"""Which Python types a setting takes, by its dotted key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from workbench.training.config import RunConfig


def setting_types(key: str) -> frozenset[type]:
    """The types of a setting's values, of any method's settings; empty if there is none.

    Example:
        ``setting_types("training.micro_batch_size")`` is int and NoneType.
    """
    return frozenset(_types(RunConfig, key.split(".")))


def takes_whole_numbers(key: str) -> bool:
    """Whether a setting takes integers, and no other number."""
    types = setting_types(key)
    return int in types and float not in types


def _types(annotation: Any, path: Sequence[str]) -> set[type]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _types(arguments[0], path)
    if origin in (Union, UnionType):
        return set().union(*(_types(each, path) for each in arguments))
    kind = origin or annotation
    if not path:
        return {kind if isinstance(kind, type) else type(arguments[0])}
    if not isinstance(kind, type):
        return set()
    if issubclass(kind, BaseModel):
        field = kind.model_fields.get(path[0])
        return _types(field.annotation, path[1:]) if field is not None else set()
    return _types(arguments[1], path[1:]) if issubclass(kind, Mapping) else set()
