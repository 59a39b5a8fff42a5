"""An experiment: a question with named, frozen variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.errors import RequestError, unknown_name
from workbench.studies import SearchSpace, StudySettings
from workbench.training.config import RunConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Experiment:
    """A question, what we expect, and the variants that answer it.

    ``space`` is what ``workbench study run`` may change of the first variant, and ``study`` how it
    searches, where the defaults do not fit. A variant's own ``experiment`` and ``variant`` fields
    are set from the names here.

    Raises:
        RequestError: no variant, or a name that MLflow or a file system would not take.
    """

    name: str
    question: str
    hypothesis: str
    variants: Mapping[str, RunConfig]
    space: SearchSpace = field(default_factory=dict)
    study: StudySettings | None = None

    def __post_init__(self) -> None:
        for kind, name in (("experiment", self.name), *(("variant", v) for v in self.variants)):
            if not _NAME.fullmatch(name):
                raise RequestError(
                    f"{kind.capitalize()} name {name!r} is not possible: letters, digits and "
                    "_ - . (not first), at most 100, so that MLflow and every disk take it."
                )
        if not self.variants:
            raise RequestError(f"Experiment {self.name!r} has no variants.")

    def variant(self, name: str | None = None) -> RunConfig:
        """A variant's configuration; the first one by default.

        Raises:
            RequestError: unknown variant.
        """
        chosen = next(iter(self.variants)) if name is None else name
        if chosen not in self.variants:
            raise unknown_name(f"variant of {self.name}", chosen, self.variants)
        names = {"experiment": self.name, "variant": chosen}
        return self.variants[chosen].model_copy(update=names)
