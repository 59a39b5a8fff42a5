"""Changes a run's configuration by dotted assignments, as command lines and files write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from workbench.data.prompts import PromptsConfig
from workbench.errors import RequestError, unknown_name
from workbench.methods import METHODS, MethodConfig, method_type
from workbench.methods.guidance import guidance_scales
from workbench.training.config import AdamConfig, RunConfig, known_keys, trained_names, validated

_METHOD_NAME = "method.name"

_BY_NAME: Mapping[str, Callable[[str], Mapping[str, Any]]] = {"method.guidance": guidance_scales}
"""Groups of settings that a name may stand for; a later override may then change one of them."""


def with_overrides(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """The configuration with dotted assignments ("training.batch_size=64") applied in order.

    Values are JSON where they parse as JSON, else text.

    A method's name comes first: with it the method's own settings, and its roles' optimizers,
    take the place of the other one's.

    Raises:
        RequestError: no "=", an unknown key (names the nearest one) or a refused value.
    """
    values = config.model_dump(mode="json")
    pairs = [_pair(assignment) for assignment in assignments]
    for key, value in sorted(pairs, key=lambda pair: pair[0] != _METHOD_NAME):
        if key == _METHOD_NAME:
            _switch_method(values, str(value))
        _assign(values, key, value)
    return _with_used_prompts(validated(values))


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables, as TOML makes them of dotted keys, with their dots again."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": own for inner, own in flattened(value).items()}
        else:
            flat[key] = value
    return flat


def as_assignments(settings: Mapping[str, Any]) -> Iterator[str]:
    """The same as assignments ("training.kimg=6.4")."""
    for key, value in flattened(settings).items():
        yield f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def _with_used_prompts(config: RunConfig) -> RunConfig:
    """The configuration, if its method learns from the prompts that it names.

    Asked for here and not of every configuration: older runs have such settings, without effect.
    """
    if config.prompts == PromptsConfig() or method_type(config.method).needs_prompts:
        return config
    raise RequestError(
        f"Invalid configuration: method {config.method.name!r} learns with the prompts of its "
        f"pairs, and not from prompts, whose source is {config.prompts.source!r}; leave prompts as "
        "they are."
    )


def method_after(config: RunConfig, assignments: Sequence[str]) -> str:
    """The name of the method after the assignments are applied.

    Raises:
        RequestError: an assignment without "=".
    """
    chosen = [value for key, value in map(_pair, assignments) if key == _METHOD_NAME]
    return str(chosen[-1]) if chosen else config.method.name


def concerns(method: str, assignment: str) -> bool:
    """Whether a dotted assignment applies to a method: not if only other methods have it.

    True for unknown settings and unknown methods: :func:`with_overrides` reports those.
    """
    if method not in METHODS:
        return True
    config = _default(METHODS[method])
    match assignment.partition("=")[0].strip().split("."):
        case ["method", field, *_]:
            return field in METHODS[method].model_fields or not _owners(field)
        case ["data", *_]:
            return method_type(config).needs_pairs
        case ["prompts", *_]:
            return method_type(config).needs_prompts
        case ["training", "optimizers", role, *_]:
            others = {name for each in METHODS.values() for name in trained_names(_default(each))}
            return role in trained_names(config) or role not in others
    return True


@cache
def _default(settings: type[MethodConfig]) -> MethodConfig:
    return settings()


def _pair(assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals:
        raise RequestError(f"Cannot read {assignment!r}: expected KEY=VALUE.")
    return key.strip(), _parse(text.strip())


def _switch_method(values: dict[str, Any], name: str) -> None:
    """Switch to another method's defaults, keeping changed settings that both methods have.

    Also chooses a noise type that the method's students can be used with.
    """
    old, method = values["method"], METHODS[name]()
    was = METHODS[old["name"]]().model_dump(mode="json")
    new = method.model_dump(mode="json")
    changed = {key for key in old if key in new and old[key] != was[key]}
    values["method"] = {**new, **{key: old[key] for key in changed}}
    allowed, generator = method_type(method).noise_types, values["generator"]
    generator["noise"] = generator["noise"] if generator["noise"] in allowed else allowed[0]
    optimizers = values["training"]["optimizers"]
    plain = AdamConfig().model_dump(mode="json")
    values["training"]["optimizers"] = {
        role: optimizers.get(role, plain) for role in trained_names(method)
    }


def _check_owner(values: Mapping[str, Any], key: str) -> None:
    """Refuse a setting of another method with an error that names its owner."""
    field, name = key.removeprefix("method.").split(".")[0], values["method"]["name"]
    if not key.startswith("method.") or field in METHODS[name].model_fields:
        return
    owners = _owners(field)
    if owners:
        raise RequestError(
            f"{key} is a setting of method {' and '.join(owners)}; this run's method is {name}."
        )


def _owners(field: str) -> list[str]:
    """The methods that have a setting."""
    return [method for method, kind in METHODS.items() if field in kind.model_fields]


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@cache
def _defaults() -> dict[str, Any]:
    return RunConfig().model_dump(mode="json")


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    _check_owner(values, key)
    *folders, leaf = key.split(".")
    node: Any = values
    default: Any = _defaults()
    for part in folders:
        if not isinstance(node, dict) or part not in node:
            raise unknown_name("configuration key", key, known_keys())
        if node[part] is None:  # a group that is off: naming one of its settings turns it on
            node[part] = {}
        node, default = node[part], default.get(part) if isinstance(default, dict) else None
    # The settings of a group that is off by default, or that takes any name, are not listed there;
    # validation knows them.
    if not isinstance(node, dict) or not (leaf in node or default in (None, {})):
        raise unknown_name("configuration key", key, known_keys())
    if key in _BY_NAME and isinstance(value, str):
        value = _BY_NAME[key](value)
    group = default.get(leaf) if isinstance(default, dict) else None
    if isinstance(group, dict) and not isinstance(value, dict | None):
        one = "name" if "name" in group else next(iter(group), "NAME")
        raise RequestError(
            f"{key} is a group of settings and cannot be {value!r}: set one of them, such as "
            f"{key}.{one}."
        )
    node[leaf] = value


def setting_types(key: str) -> frozenset[type]:
    """The types that a setting takes, in any method; empty if there is no such setting.

    Example:
        ``setting_types("training.micro_batch_size")`` is int and NoneType.
    """
    return frozenset(_types(RunConfig, key.split(".")))


def takes_whole_numbers(key: str) -> bool:
    """Whether a setting takes integers but no other numbers."""
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
