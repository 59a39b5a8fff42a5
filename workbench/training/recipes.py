"""Recipes and tasks: settings with their sources, laid under an experiment's own.

A *recipe* holds how a teacher is distilled (optimizers, batch, guidance, durations, how the teacher
itself is measured). A *task* holds what is learnt and what judges it: prompts, real images, metrics.
Both are TOML files, in ``experiments/recipes`` and ``experiments/tasks`` or in folders of those names
below one that ``WORKBENCH_EXPERIMENTS`` names::

    description = "SANA 0.6B at 512 px, all weights"
    extends = "sid-dit"              # settings of another recipe come first
    teachers = ["sana-0.6b-512"]     # whose runs use it unless told
    pipeline = "SanaPipeline"        # other families are refused
    task = "coco"

    [[settings]]
    source = "launch script of ml-sid-dit"
    training.batch_size = 256

The order: built-in, task, recipe, experiment, ``--set``; the last one to name a setting decides.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError

from workbench.bundled import experiment_folders
from workbench.errors import RequestError, unknown_name
from workbench.settings import FrozenConfig
from workbench.teachers.catalog import teacher_kind
from workbench.teachers.embedded import default_teacher
from workbench.training.config import RunConfig
from workbench.training.overrides import as_assignments, concerns, method_after, with_overrides

BUILT_IN, SET = "built-in", "--set"

GENERAL = "sid-dit"
"""The published settings that hold for every teacher; of teachers without a recipe of their own."""

SELECTORS = ("teacher", "recipe", "task")
"""Assignments that choose what is laid under the others; only the first is a setting of a run."""


class Settings(FrozenConfig, extra="allow"):
    """Settings of one source: ``source`` and, beside it, dotted keys as TOML nests them."""

    source: str

    @property
    def assignments(self) -> tuple[str, ...]:
        return tuple(as_assignments(self.model_extra or {}))


class Task(FrozenConfig):
    """What is learnt and what judges it."""

    name: str
    description: str
    settings: tuple[Settings, ...] = ()


class Recipe(FrozenConfig):
    """How teachers are distilled.

    Attributes:
        teachers: whose runs use it unless told.
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


@dataclass(frozen=True)
class Layer:
    """Settings of one origin, in words.

    Attributes:
        optional: what the run's method has no use for is left out instead of refused.
    """

    origin: str
    assignments: tuple[str, ...]
    optional: bool = False


@dataclass(frozen=True)
class Foundation:
    """What lies under a run's own settings: its teacher's recipe and its task.

    Attributes:
        own: whether the recipe was made for this teacher, or asked for.
    """

    teacher: str
    recipe: Recipe
    task: Task | None
    own: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        found = []
        if self.task is not None:
            found += [
                Layer(f"task {self.task.name} ({part.source})", part.assignments, optional=True)
                for part in self.task.settings
            ]
        found += [
            Layer(f"recipe {self.recipe.name} ({part.source})", part.assignments, optional=True)
            for part in self.recipe.settings
        ]
        return tuple(found)


@dataclass(frozen=True)
class Resolved:
    """A run's configuration, and where each of its settings comes from."""

    config: RunConfig
    foundation: Foundation
    layers: tuple[Layer, ...] = field(repr=False)

    @property
    def origins(self) -> dict[str, str]:
        """Dotted key -> who named it last; :data:`BUILT_IN` where nobody did."""
        named = [
            (assignment.partition("=")[0].strip(), layer.origin)
            for layer in self.layers
            for assignment in layer.assignments
        ]
        origins = {}
        for key in self.config.flat():
            told = [origin for own, origin in named if key == own or key.startswith(f"{own}.")]
            origins[key] = told[-1] if told else BUILT_IN
        return origins


def resolve(
    layers: Sequence[Layer], scoped: Mapping[str, Sequence[Layer]] | None = None
) -> Resolved:
    """A configuration from layers over its teacher's recipe and task.

    Args:
        layers: lowest first; ``teacher``, ``recipe`` and ``task`` among their assignments choose
            what is laid under them.
        scoped: task -> layers that count for it alone, above ``layers`` but below ``--set``.

    Raises:
        RequestError: an unknown name, a recipe of another family, an unknown key or a refused
            value.
    """
    chosen = _selected(layers)
    foundation = find_foundation(**chosen)
    task = foundation.task.name if foundation.task else ""
    above = [layer for layer in layers if layer.origin == SET]
    below = [layer for layer in layers if layer.origin != SET]
    stack = [*foundation.layers, *below, *(scoped or {}).get(task, ()), *above]
    return _laid(foundation, [_without_selectors(layer) for layer in stack])


def run_config(*assignments: str) -> RunConfig:
    """The configuration of a run on its teacher's recipe, with a person's assignments.

    Example:
        ``run_config("teacher=sana-0.6b-512", "training.kimg=100")``

    Raises:
        RequestError: as :func:`resolve`.
    """
    return resolve([Layer(SET, assignments)]).config


def find_foundation(
    teacher: str | None = None, recipe: str | None = None, task: str | None = None
) -> Foundation:
    """The recipe and task of a teacher, or those that are asked for.

    Raises:
        RequestError: an unknown name, or a recipe of another family.
    """
    name = teacher or default_teacher()
    found = get_recipe(recipe) if recipe else recipe_for(name)
    if recipe:
        _check_family(found, name)
    own = bool(recipe) or found.name != GENERAL
    asked = task or found.task
    return Foundation(name, found, get_task(asked) if asked else None, own)


def recipe_for(teacher: str) -> Recipe:
    """The recipe that a teacher's runs use unless told: its own, else the general one."""
    name = teacher_kind(teacher).name or teacher
    found = (recipe for recipe in all_recipes().values() if name in recipe.teachers)
    return next(found, None) or get_recipe(GENERAL)


def nearest_recipe(teacher: str) -> Recipe | None:
    """The recipe for the nearest known teacher of the same family; None where that is not known."""
    kind = teacher_kind(teacher)
    near = [
        (abs(math.log((kind.parameters or 1) / (teacher_kind(known).parameters or 1))), recipe)
        for recipe in all_recipes().values()
        if recipe.pipeline is not None
        and recipe.pipeline == kind.pipeline
        and recipe.card_gib is None
        for known in recipe.teachers
    ]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def get_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        RequestError: unknown (names the nearest), or a file that cannot be read.
    """
    recipes = all_recipes()
    if name not in recipes:
        raise unknown_name("recipe", name, recipes)
    return recipes[name]


def get_task(name: str) -> Task:
    """A task by name.

    Raises:
        RequestError: unknown (names the nearest), or a file that cannot be read.
    """
    tasks = all_tasks()
    if name not in tasks:
        raise unknown_name("task", name, tasks)
    return tasks[name]


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name, with the settings of those that it extends in front.

    Raises:
        RequestError: a file that cannot be read, that extends nothing there is, or extends itself.
    """
    files = _files("recipes")
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
    return {name: _read(file, Task) for name, file in _files("tasks").items()}


def _files(kind: Literal["recipes", "tasks"]) -> dict[str, Path]:
    """Name -> file; a person's own file counts where the bundled ones have one of that name."""
    return {
        file.stem: file
        for folder in experiment_folders()
        for file in sorted((folder / kind).glob("*.toml"))
    }


_Read = TypeVar("_Read", Recipe, Task)


def _read(file: Path, kind: type[_Read]) -> _Read:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        return kind.model_validate({"name": file.stem, **content})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RequestError(f"Cannot read {file}: {error}.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{file}: {where}: {first['msg']}.") from None


def _check_family(recipe: Recipe, teacher: str) -> None:
    pipeline = teacher_kind(teacher).pipeline
    if recipe.pipeline is None or pipeline in (None, recipe.pipeline):
        return
    near = nearest_recipe(teacher)
    instead = f" Of its family: --recipe {near.name}." if near is not None else ""
    raise RequestError(
        f"The recipe {recipe.name} is for a {recipe.pipeline}, and the teacher {teacher} is a "
        f"{pipeline}.{instead}"
    )


def _selected(layers: Iterable[Layer]) -> dict[str, str]:
    """The last word of the layers on teacher, recipe and task."""
    chosen = {}
    for layer in layers:
        for assignment in layer.assignments:
            key, equals, value = assignment.partition("=")
            if equals and key.strip() in SELECTORS:
                chosen[key.strip()] = value.strip().strip('"')
    return chosen


def _without_selectors(layer: Layer) -> Layer:
    kept = [
        text for text in layer.assignments if text.partition("=")[0].strip() not in SELECTORS[1:]
    ]
    return Layer(layer.origin, tuple(kept), layer.optional)


def _laid(foundation: Foundation, stack: Sequence[Layer]) -> Resolved:
    base = RunConfig(teacher=foundation.teacher)
    method = method_after(base, [text for layer in stack for text in layer.assignments])
    used = []
    for layer in stack:
        kept = layer.assignments
        if layer.optional:
            kept = tuple(text for text in kept if concerns(method, text))
        used.append(Layer(layer.origin, kept, layer.optional))
    config = with_overrides(base, [text for layer in used for text in layer.assignments])
    return Resolved(config, foundation, tuple(used))
