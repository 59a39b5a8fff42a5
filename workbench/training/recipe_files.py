"""Recipes and tasks as files: groups of settings, each with its source.

Both are TOML, in ``experiments/recipes`` and ``experiments/tasks`` or in folders of those names
below one that ``WORKBENCH_EXPERIMENTS`` names::

    description = "SANA 0.6B at 512 px, all weights"
    extends = "sid-dit"              # settings of another recipe come first
    teachers = ["sana-0.6b-512"]     # whose runs use it unless told
    pipeline = "SanaPipeline"        # other families are refused
    task = "coco"

    [[settings]]
    source = "launch script of ml-sid-dit"
    training.batch_size = 256

    [[settings]]
    source = "README of ml-sid-dit"
    methods = ["sid", "sid2a"]       # whose runs have them; others keep their own
    method.weighting = "1-t"
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from pathlib import Path
from typing import TypeVar, cast

from pydantic import Field, ValidationError, field_validator

from workbench.bundled import experiment_files
from workbench.errors import RequestError, unknown_name
from workbench.lookup import Lookup
from workbench.methods import METHODS
from workbench.settings import FrozenConfig
from workbench.training.overrides import as_assignments


class Settings(FrozenConfig, extra="allow"):
    """Settings of one source: the extra keys, nested as TOML nests dotted keys.

    Attributes:
        source: where the settings come from, for people.
        methods: the methods that use them; () for all.
    """

    source: str = Field(min_length=1)
    methods: tuple[str, ...] = ()

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in METHODS:
                raise ValueError(str(unknown_name("method", name, METHODS)))
        return names

    @property
    def assignments(self) -> tuple[str, ...]:
        return tuple(as_assignments(self.model_extra or {}))


class Task(FrozenConfig):
    """What a run learns and what scores it."""

    name: str
    description: str
    settings: tuple[Settings, ...] = ()


class Recipe(FrozenConfig):
    """How teachers are distilled.

    Attributes:
        teachers: those that use it by default.
        pipeline: the diffusers class that it is for; None for any.
        card_gib: memory of the one GPU that it was made to fit; None for a full recipe.
        settings: with those of the recipes that it extends in front.
    """

    name: str
    description: str
    extends: str | None = None
    teachers: tuple[str, ...] = ()
    pipeline: str | None = None
    task: str | None = None
    card_gib: int | None = Field(None, gt=0)
    settings: tuple[Settings, ...] = ()


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        RequestError: unknown (names the nearest), or a file that cannot be read.
    """
    return Lookup("recipe", all_recipes())[name]


def get_task(name: str) -> Task:
    """A task by name.

    Raises:
        RequestError: unknown (names the nearest), or a file that cannot be read.
    """
    return Lookup("task", all_tasks())[name]


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, with the settings of those that it extends in front.

    Raises:
        RequestError: a file that cannot be read, that extends nothing there is, or extends itself.
    """
    files = experiment_files("recipes", ".toml")
    read = {name: _read(file, Recipe) for name, file in files.items()}

    def whole(name: str, path: tuple[str, ...] = ()) -> tuple[tuple[Settings, ...], str | None]:
        recipe = read[name]
        if recipe.extends is None:
            return recipe.settings, recipe.task
        if recipe.extends not in read or recipe.extends in (*path, name):
            raise RequestError(
                f"{files[name]} extends {recipe.extends!r}, which is itself or no recipe. "
                f"Known: {', '.join(sorted(read))}."
            )
        below, task = whole(recipe.extends, (*path, name))
        return (*below, *recipe.settings), recipe.task or task

    found = {}
    for name, recipe in read.items():
        settings, task = whole(name)
        found[name] = recipe.model_copy(update={"settings": settings, "task": task})
    return found


def all_tasks() -> dict[str, Task]:
    """Every task by name.

    Raises:
        RequestError: a file that cannot be read.
    """
    return {name: _read(file, Task) for name, file in experiment_files("tasks", ".toml").items()}


_Read = TypeVar("_Read", Recipe, Task)


def _read(file: Path, kind: type[_Read]) -> _Read:
    try:
        written = file.stat().st_mtime_ns
    except OSError as error:
        raise RequestError(f"Cannot read {file}: {error}.") from None
    return cast(_Read, _read_once(file, written, kind))


@lru_cache(maxsize=256)
def _read_once(file: Path, written: int, kind: type[_Read]) -> Recipe | Task:
    """Read again only where the file was written again: a table of experiments asks often."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return kind.model_validate({"name": file.stem, **content})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"Cannot read {file}: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        told = first["msg"].removeprefix("Value error, ").removesuffix(".")
        raise RequestError(f"{file}: {where}: {told}.") from None
