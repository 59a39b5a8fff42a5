"""What a study is: complete enough to be stored in it, so that any machine can work on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, ValidationError, model_validator

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.settings import FrozenConfig
from workbench.studies.check import check_space
from workbench.studies.objectives import (
    Objective,
    check_measured,
    default_objective,
    get_objective,
)
from workbench.studies.samplers import (
    NO_PRUNER,
    OVER_SEEDS,
    PRUNERS,
    SAMPLERS,
    WILCOXON_SEEDS,
    Rungs,
)
from workbench.studies.space import Integer, Real, SearchSpace, space_from_json, space_to_json
from workbench.training.config import RunConfig, validated

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
VERSION = re.compile(r"(.*)\.v(\d+)")
"""The name of a study that is a later version of another one."""

_OWN_KEYS = ("experiment", "variant", "seed")
_OPERATION = frozenset({"retries", "heartbeat_s", "grace_s"})
"""Settings that do not decide which points are tried and how they are judged."""


class StudySettings(FrozenConfig):
    """How a space is searched.

    Raises:
        RequestError: an unknown objective, sampler or pruner (names the nearest).
    """

    objectives: tuple[str, ...] = Field(
        (),
        description="metrics to improve, each in its own direction; several: a Pareto front; [] = "
        "the metric that judges the runs",
    )
    sampler: str = Field("tpe", description="tpe, gp, cmaes, nsgaii or random")
    pruner: str | None = Field(
        None,
        description="hyperband, median, wilcoxon or none; by default median where a run's own "
        "evaluations allow it",
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="one run each a trial; their scores are averaged"
    )
    sampler_seed: int = Field(0, ge=0)
    retries: int = Field(2, ge=0, description="of a trial whose worker died")
    heartbeat_s: int = Field(10, ge=1, description="seconds between a worker's signs of life")
    grace_s: int = Field(60, ge=2, description="seconds of silence after which a worker is dead")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in self.objectives:
            get_objective(name)
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        if self.pruner is not None and self.pruner not in PRUNERS:
            raise unknown_name("pruner", self.pruner, PRUNERS)
        for name in ("objectives", "seeds"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {list(values)} names one twice")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: expected whole numbers from 0 (got {list(self.seeds)})")
        if self.grace_s <= self.heartbeat_s:
            raise ValueError("grace_s must be longer than heartbeat_s")
        return self

    def with_changes(self, changes: Mapping[str, Any]) -> StudySettings:
        """These settings with some replaced.

        Raises:
            RequestError: an unknown setting (names the nearest), or a refused value.
        """
        for name in changes:
            if name not in StudySettings.model_fields:
                raise unknown_name("study setting", name, StudySettings.model_fields)
        try:
            return StudySettings.model_validate({**self.model_dump(), **changes})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RequestError(
                f"Study settings: {where + ': ' if where else ''}"
                f"{first['msg'].removeprefix('Value error, ')}."
            ) from None


@dataclass(frozen=True)
class StudySpec:
    """A search: the recipe it starts from, what may change, and how.

    Attributes:
        experiment: whose space and base these are; a promoted trial becomes its variant.
        base: its ``experiment``, ``variant`` and ``seed`` play no part.
        settings: where they name no objective, the metric that judges the base's runs is put in.

    Raises:
        RequestError: no objective is named, and the base measures nothing.
    """

    name: str
    experiment: str
    base: RunConfig
    space: SearchSpace
    settings: StudySettings = field(default_factory=StudySettings)

    def __post_init__(self) -> None:
        if not self.settings.objectives:
            named = {"objectives": (default_objective(self.base),)}
            object.__setattr__(self, "settings", self.settings.with_changes(named))

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(get_objective(name) for name in self.settings.objectives)

    @property
    def objective(self) -> Objective | None:
        """The only objective; None with several."""
        return self.objectives[0] if len(self.objectives) == 1 else None

    def scores(self, trial: FrozenTrial) -> dict[str, float]:
        """A complete trial's scores by objective, as measured."""
        return {o.name: o.score(trial, place) for place, o in enumerate(self.objectives)}

    @property
    def rungs(self) -> Rungs:
        """Where trials report, by the base's schedule."""
        every = max(1, round(self.base.schedule.evaluate_kimg * 1000))
        return Rungs(every, max(every, self.base.total_nimg))

    @property
    def pruner(self) -> str:
        """The pruner's name, the default resolved."""
        if self.settings.pruner is not None:
            return self.settings.pruner
        return "median" if self._evaluates_early else NO_PRUNER

    @property
    def prunes_over_seeds(self) -> bool:
        """Whether trials report a score a seed instead of one an evaluation."""
        return self.pruner in OVER_SEEDS

    @property
    def run_experiment(self) -> str:
        """The experiment under which trials are kept and tracked."""
        return run_experiment(self.name)

    @property
    def _evaluates_early(self) -> bool:
        scored = self.objective is not None and self.objective.metric is not None
        return scored and self.rungs.every < self.base.total_nimg

    def check(self) -> None:
        """Refuse what cannot work, before the first trial.

        Raises:
            RequestError: see :func:`check_space`; or parts that do not go together.
        """
        if not _NAME.fullmatch(self.name):
            raise RequestError(
                f"Study name {self.name!r} is not possible: letters, numbers and _ - . (not "
                "first), at most 80."
            )
        if VERSION.fullmatch(self.name):
            raise RequestError(f"{self.name!r} is a version's name: --new-version makes those.")
        if self.base.seed != 0:
            raise RequestError("A study's runs take their seeds from --seed, not from seed=... .")
        check_measured(self.objectives, self.base)
        check_space(self.space, self.base)
        self._check_pruner()
        self._check_sampler()

    def _check_pruner(self) -> None:
        if self.pruner == NO_PRUNER:
            return
        objective = self.objective
        if objective is None:
            raise RequestError(
                f"Pruner {self.pruner!r} needs one objective, not "
                f"{', '.join(self.settings.objectives)}: with several, use --pruner none."
            )
        if self.prunes_over_seeds:
            if len(self.settings.seeds) < WILCOXON_SEEDS:
                raise RequestError(
                    f"Pruner {self.pruner!r} compares trials seed by seed and can decide after "
                    f"four at the earliest: give at least {WILCOXON_SEEDS} seeds "
                    f"(got {len(self.settings.seeds)})."
                )
        elif not self._evaluates_early:
            raise RequestError(
                f"Pruner {self.pruner!r} needs {objective.name} during a run, but "
                + (
                    f"{objective.name} is measured only at its end."
                    if objective.metric is None
                    else "schedule.evaluate_kimg is not below training.kimg."
                )
            )

    def _check_sampler(self) -> None:
        if self.settings.sampler != "cmaes":
            return
        numbers = [k for k, d in self.space.items() if isinstance(d, Real | Integer) and not d.when]
        if self.objective is None:
            raise RequestError("Sampler 'cmaes' needs one objective; with several use 'nsgaii'.")
        if len(numbers) < 2:
            raise RequestError(
                "Sampler 'cmaes' searches numbers that always matter, at least two of them; this "
                f"space has {len(numbers)}. Use 'tpe'."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values that :func:`spec_from_json` reads; the space's order is kept."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "experiment": self.experiment,
            "base": self.base.model_dump(mode="json"),
            "space": list(space_to_json(self.space).items()),
            "settings": self.settings.model_dump(mode="json"),
        }


def run_experiment(study: str) -> str:
    """The experiment under which a study's trials are kept and tracked."""
    return f"study-{study}"


def spec_from_json(values: Mapping[str, Any]) -> StudySpec:
    """The spec that a study holds.

    Raises:
        WorkbenchError: written by another version of workbench.
    """
    try:
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']}, this workbench reads {_FORMAT}")
        return StudySpec(
            values["name"],
            values["experiment"],
            validated(values["base"]),
            space_from_json(dict(values["space"])),
            StudySettings.model_validate(values["settings"]),
        )
    except (KeyError, TypeError, ValueError, RequestError) as error:
        raise WorkbenchError(
            f"The study's own record is not this workbench's: {error}. Start another with --name."
        ) from None


def differences(old: StudySpec, new: StudySpec) -> Iterator[str]:
    """What the new spec asks otherwise, one line a setting; nothing where both search alike.

    How often a lost trial is retried, and heartbeats, may change at any time.
    """
    before, after = _asked(old), _asked(new)
    for key in dict.fromkeys((*before, *after)):
        one, other = before.get(key, "absent"), after.get(key, "absent")
        if one != other:
            yield f"{key}: {one} -> {other}"
    if list(old.space) != list(new.space) and set(old.space) == set(new.space):
        yield f"space order {', '.join(old.space)} -> {', '.join(new.space)}"


def _asked(spec: StudySpec) -> dict[str, Any]:
    """What decides which points are tried and how they are judged, by name."""
    settings = spec.settings.model_dump(mode="json") | {"pruner": spec.pruner}
    return {
        **{key: value for key, value in settings.items() if key not in _OPERATION},
        **{f"space {key}": f"{type(d).__name__.lower()} {d}" for key, d in spec.space.items()},
        **{key: value for key, value in spec.base.flat().items() if key not in _OWN_KEYS},
    }
