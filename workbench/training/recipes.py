"""Recipes and tasks: settings with their sources, laid under an experiment's own.

A *recipe* holds how a teacher is distilled (optimizers, batch, guidance, durations, how the teacher
itself is measured). A *task* holds what is learnt and what judges it: prompts, real images,
metrics. Both are data (:mod:`workbench.training.recipe_files`).

The order: built-in, task, recipe, experiment, ``--set``; the last one to name a setting decides.
What a task or a recipe says that a run's method has no use for is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from workbench.errors import RequestError
from workbench.methods import METHODS, method_type
from workbench.teachers.catalog import default_teacher, teacher_kind
from workbench.training.config import RunConfig
from workbench.training.overrides import concerns, method_after, with_overrides
from workbench.training.recipe_files import (
    Recipe,
    Task,
    all_recipes,
    get_recipe,
    get_task,
)

BUILT_IN, SET = "built-in", "--set"

GENERAL = "sid-dit"
"""The published settings that hold for every teacher; of teachers without a recipe of their own."""

SELECTORS = ("teacher", "recipe", "task")
"""Assignments that choose the layers below; only the first is a setting of a run."""


_SOURCES = ("prompts", "data", "evaluation.prompts")
"""Groups of settings that describe what their ``source`` names."""


@dataclass(frozen=True)
class Layer:
    """Settings of one origin.

    Attributes:
        origin: where they come from, for people.
        optional: settings that the run's method does not have are left out instead of refused.
        task: the settings apply to runs of this task only; None for all.
        methods: the methods that use them; () for all.
    """

    origin: str
    assignments: tuple[str, ...]
    optional: bool = False
    task: str | None = None
    methods: tuple[str, ...] = ()

    def used_by(self, method: str) -> Layer:
        """The layer with the settings that apply to a method."""
        kept = self.assignments
        if self.methods and method not in self.methods:
            kept = ()
        elif self.optional:
            kept = tuple(text for text in kept if concerns(method, text))
        return replace(self, assignments=kept)


@dataclass(frozen=True)
class Foundation:
    """The settings below a run's own: its teacher's recipe and its task.

    Attributes:
        own: whether the recipe was made for this teacher, or asked for.
    """

    teacher: str
    recipe: Recipe
    task: Task | None
    own: bool

    @property
    def layers(self) -> tuple[Layer, ...]:
        named: list[tuple[str, Task | Recipe]] = [("recipe", self.recipe)]
        if self.task is not None:
            named.insert(0, ("task", self.task))
        return tuple(
            Layer(
                f"{kind} {part.name} ({group.source})",
                group.assignments,
                optional=True,
                methods=group.methods,
            )
            for kind, part in named
            for group in part.settings
        )

    def settings(self, method: str) -> dict[str, tuple[str, str]]:
        """Dotted key -> (value as text, its last origin), for runs of that method.

        Raises:
            RequestError: no such method.
        """
        METHODS.check(method)
        found: dict[str, tuple[str, str]] = {}
        for layer in self.layers:
            for assignment in layer.used_by(method).assignments:
                key, _, value = assignment.partition("=")
                found.pop(key, None)  # what one source says stays together
                found[key] = (value, layer.origin)
        return found


@dataclass(frozen=True)
class Resolved:
    """A run's configuration, and where each of its settings comes from."""

    config: RunConfig
    foundation: Foundation
    layers: tuple[Layer, ...] = field(repr=False)

    @property
    def origins(self) -> dict[str, str]:
        """Dotted key -> the origin that set it last; :data:`BUILT_IN` for defaults."""
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


def resolve(layers: Sequence[Layer]) -> Resolved:
    """A configuration from layers over its teacher's recipe and task.

    Args:
        layers: lowest first; ``teacher``, ``recipe`` and ``task`` among the assignments of those
            that count for every task choose what is laid under them.

    Raises:
        RequestError: an unknown name, a recipe of another family, an unknown key or a refused
            value.
    """
    foundation = find_foundation(**_selected(layer for layer in layers if layer.task is None))
    task = foundation.task.name if foundation.task else None
    stack = [*foundation.layers, *(layer for layer in layers if layer.task in (None, task))]
    return _laid(foundation, [_without_selectors(layer) for layer in stack])


def check_known(resolved: Resolved) -> None:
    """Refuse a run without prompts to learn from or metrics to score it by.

    Only runs of a teacher without a recipe can lack them: the general recipe sets neither.

    Raises:
        RequestError: one line that asks for it, and names the nearest recipe of its family.
    """
    if resolved.foundation.own:
        return
    config, origins = resolved.config, resolved.origins
    asked = []
    if config.prompts.source is None and method_type(config.method).needs_prompts:
        asked.append("--set prompts.source=FILE")
    if origins["evaluation.metrics"] == BUILT_IN:
        asked.append(
            '--set evaluation.reference=NAME --set evaluation.metrics=\'["fid", "clip"]\' '
            "(or evaluation.metrics=[] for no scores)"
        )
    if not asked:
        return
    near = nearest_recipe(config.teacher)
    instead = (
        "; `workbench recipes list` has recipes"
        if near is None
        else (f"; or --recipe {near.name}, the nearest of its family ({near.pipeline})")
    )
    raise RequestError(
        f"The teacher {config.teacher} has no recipe, so that a run must be told what it learns "
        f"from and what it is scored by: {' '.join(asked)}{instead}."
    )


def run_config(*assignments: str) -> RunConfig:
    """The configuration of a run: its teacher's recipe with assignments on top.

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
    """The default recipe of a teacher: its own, else the general one."""
    name = teacher_kind(teacher).name or teacher
    found = (recipe for recipe in all_recipes().values() if name in recipe.teachers)
    return next(found, None) or get_recipe(GENERAL)


def nearest_recipe(teacher: str) -> Recipe | None:
    """The recipe of the teacher nearest in size of the same family; None if the family is unknown.

    The teacher's own recipe wins a tie; recipes for one GPU are not considered.
    """
    kind = teacher_kind(teacher)

    def distance(known: str) -> tuple[float, bool]:
        sizes = (kind.parameters or 1, teacher_kind(known).parameters or 1)
        return abs(math.log(sizes[0] / sizes[1])), known != kind.name

    near = [
        (distance(known), recipe)
        for recipe in all_recipes().values()
        if recipe.pipeline is not None
        and recipe.pipeline == kind.pipeline
        and recipe.card_gib is None
        for known in recipe.teachers
    ]
    return min(near, key=lambda pair: pair[0])[1] if near else None


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
    """The last assignments of teacher, recipe and task in the layers."""
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
    return replace(layer, assignments=tuple(kept))


def _of_its_sources(layer: Layer, above: Sequence[Layer]) -> Layer:
    """The layer without options (a column, say) of a source that a layer above replaces."""
    keys = {text.partition("=")[0].strip() for other in above for text in other.assignments}
    replaced = tuple(f"{group}." for group in _SOURCES if f"{group}.source" in keys)
    kept = [text for text in layer.assignments if not text.strip().startswith(replaced)]
    return replace(layer, assignments=tuple(kept)) if replaced else layer


def _laid(foundation: Foundation, stack: Sequence[Layer]) -> Resolved:
    base = RunConfig(teacher=foundation.teacher)
    method = method_after(base, [text for layer in stack for text in layer.assignments])
    used = [_of_its_sources(layer, stack[place + 1 :]) for place, layer in enumerate(stack)]
    used = [layer.used_by(method) for layer in used]
    config = with_overrides(base, [text for layer in used for text in layer.assignments])
    return Resolved(config, foundation, tuple(used))
