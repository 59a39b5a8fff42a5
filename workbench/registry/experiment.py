"""An experiment: a question with named variants, as settings over a teacher's recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.studies import SearchSpace, StudySettings, check_entries
from workbench.training.config import RunConfig
from workbench.training.overrides import as_assignments
from workbench.training.recipes import SET, Layer, Resolved, resolve

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Values = Mapping[str, Any]
"""Settings: dotted keys or nested tables -> values."""


@dataclass(frozen=True)
class Part:
    """Of an experiment for one task: settings of all variants, and of each, and what is searched.

    A space takes the place of the experiment's general one.
    """

    base: Values = field(default_factory=dict)
    variants: Mapping[str, Values] = field(default_factory=dict)
    space: SearchSpace = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A question, what we expect, and the variants that answer it.

    Attributes:
        variants: name -> what it changes. A run's ``experiment`` and ``variant`` are set from the
            names here.
        base: settings of all variants; ``teacher`` among them is used unless another is named.
        tasks: task -> what counts where the run has that task alone (durations that suit a small
            one, say). A task's base lies over the experiment's, a variant over both.
        space: what ``workbench studies run`` may change of a variant.
        study: how it searches, where the defaults do not fit.

    Example:
        ``Experiment("alpha", "Does it matter?", "No.", {"low": {"method.sid_alpha": 0.8}})``

    Raises:
        RequestError: no variant, a name that MLflow or a file system would not take, or a search
            space that no base could have.
    """

    name: str
    question: str
    hypothesis: str
    variants: Mapping[str, Values]
    base: Values = field(default_factory=dict)
    tasks: Mapping[str, Part] = field(default_factory=dict)
    space: SearchSpace = field(default_factory=dict)
    study: StudySettings | None = None

    def __post_init__(self) -> None:
        for kind, name in (("experiment", self.name), *(("variant", v) for v in self.variants)):
            if not _NAME.fullmatch(name):
                raise RequestError(
                    f"{kind.capitalize()} name {name!r} is not possible: letters, numbers and "
                    "_ - . (not first), at most 100, so that MLflow and every disk take it."
                )
        if not self.variants:
            raise RequestError(f"Experiment {self.name!r} has no variants.")
        for task, part in self.tasks.items():
            for variant in part.variants:
                if variant not in self.variants:
                    raise unknown_name(f"variant of {self.name} in {task}", variant, self.variants)
        for space in (self.space, *(part.space for part in self.tasks.values())):
            check_entries(space)

    def resolve(self, variant: str | None = None, changes: Sequence[str] = ()) -> Resolved:
        """A variant on its teacher's recipe, with a person's changes on top; the first by default.

        Raises:
            RequestError: unknown variant, or as :func:`workbench.training.recipes.resolve`.
        """
        chosen = next(iter(self.variants)) if variant is None else variant
        if chosen not in self.variants:
            raise unknown_name(f"variant of {self.name}", chosen, self.variants)
        origin = f"experiment {self.name}"

        def layer(settings: Values, task: str | None = None) -> Layer:
            return Layer(origin, tuple(as_assignments(settings)), task=task)

        return resolve(
            [
                layer(self.base),
                *(layer(part.base, task) for task, part in self.tasks.items()),
                layer(self.variants[chosen]),
                *(layer(part.variants.get(chosen, {}), task) for task, part in self.tasks.items()),
                Layer(origin, (f"experiment={self.name}", f"variant={chosen}", "seed=0")),
                Layer(SET, tuple(changes)),
            ]
        )

    def space_on(self, resolved: Resolved) -> SearchSpace:
        """What may be searched where a variant is resolved: its task's space, else the general."""
        task = resolved.foundation.task
        part = self.tasks.get(task.name) if task is not None else None
        return (part.space if part is not None else {}) or self.space

    def variant(self, name: str | None = None) -> RunConfig:
        """A variant's configuration on its own teacher; the first one by default.

        Raises:
            RequestError: as :meth:`resolve`.
        """
        return self.resolve(name).config
