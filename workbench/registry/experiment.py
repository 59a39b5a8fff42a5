"""Experiments: questions with named, frozen variants, each a file of its own in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workbench.bundled import bundled_folder, load_module
from workbench.errors import RequestError, unknown_name
from workbench.studies import SearchSpace
from workbench.training.config import RunConfig

ENVIRONMENT_VARIABLE = "WORKBENCH_EXPERIMENTS"


@dataclass(frozen=True)
class Experiment:
    """A question, what we expect, and the variants that answer it.

    ``space`` is what ``workbench study run`` may change of the first variant. A variant's own
    ``experiment`` and ``variant`` fields are set from the names here.
    """

    name: str
    question: str
    hypothesis: str
    variants: Mapping[str, RunConfig]
    space: SearchSpace = field(default_factory=dict)

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


def experiment_folders() -> list[Path]:
    """Where experiment files are looked for: the bundled ones, then $WORKBENCH_EXPERIMENTS."""
    own = [
        Path(part) for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if part
    ]
    return [bundled_folder("experiments"), *own]


def load_experiments() -> dict[str, Experiment]:
    """Every experiment by name.

    Raises:
        RequestError: a file that does not load, defines no ``EXPERIMENT``, or repeats a name.
    """
    found: dict[str, Experiment] = {}
    for folder in experiment_folders():
        for file in sorted(folder.glob("[!_]*.py")):
            experiment = _load(file)
            if experiment.name in found:
                raise RequestError(f"{file}: there is already an experiment {experiment.name!r}.")
            found[experiment.name] = experiment
    return found


def get_experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        RequestError: unknown name.
    """
    experiments = load_experiments()
    if name not in experiments:
        raise unknown_name("experiment", name, experiments)
    return experiments[name]


def _load(file: Path) -> Experiment:
    try:
        module = load_module(file)
    except RequestError as error:
        raise RequestError(f"{file}: {error}") from error
    except Exception as error:
        raise RequestError(f"{file} does not load: {type(error).__name__}: {error}.") from error
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise RequestError(f"{file} defines no EXPERIMENT = Experiment(...).")
    return experiment
