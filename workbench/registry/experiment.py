"""An experiment: a question with named variants, as settings over a teacher's recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import RequestError, unknown_name
from workbench.studies import SearchSpace, StudySettings
from workbench.training.config import RunConfig
from workbench.training.overrides import as_assignments
from workbench.training.recipes import SET, Layer, Resolved, resolve

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Values = Mapping[str, Any]
"""Settings: dotted keys or nested tables -> values."""


@dataclass(frozen=True)
class Part:
    """Settings of an experiment: for all of its variants, and for each."""

    base: Values = field(default_factory=dict)
    variants: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A question, what we expect, and the variants that answer it.

    Attributes:
        variants: name -> what it changes. A run's ``experiment`` and ``variant`` are set from the
            names here.
        base: settings of all variants; ``teacher`` among them is used unless another is named.
        tasks: task -> settings that count where the run has that task alone (durations that suit
            a small one, say).
        space: what ``workbench study run`` may change of the first variant.
        study: how it searches, where the defaults do not fit.

    Example:
        ``Experiment("alpha", "Does it matter?", "No.", {"low": {"method.sid_alpha": 0.8}})``

    Raises:
        RequestError: no variant, or a name that MLflow or a file system would not take.
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

    def resolve(self, variant: str | None = None, changes: Sequence[str] = ()) -> Resolved:
        """A variant on its teacher's recipe, with a person's changes on top; the first by default.

        Raises:
            RequestError: unknown variant, or as :func:`workbench.training.recipes.resolve`.
        """
        chosen = next(iter(self.variants)) if variant is None else variant
        if chosen not in self.variants:
            raise unknown_name(f"variant of {self.name}", chosen, self.variants)
        origin = f"experiment {self.name}"
        own = Layer(origin, self._assignments(self.base, self.variants[chosen]))
        names = (f"experiment={self.name}", f"variant={chosen}")
        scoped = {
            task: [Layer(origin, self._assignments(part.base, part.variants.get(chosen, {})))]
            for task, part in self.tasks.items()
        }
        return resolve([own, Layer(SET, (*names, *changes))], scoped)

    def variant(self, name: str | None = None) -> RunConfig:
        """A variant's configuration on its own teacher; the first one by default.

        Raises:
            RequestError: as :meth:`resolve`.
        """
        return self.resolve(name).config

    def _assignments(self, *settings: Values) -> tuple[str, ...]:
        return tuple(text for each in settings for text in as_assignments(each))
