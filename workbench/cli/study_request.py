"""What a person asks of `workbench studies run`, and the study that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.studies import SearchSpace, StudySpec

SEARCH = "What to search"

SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=LOW..HIGH|KEY=A|B",
        help="A setting to search, instead of the experiment's space; repeatable. See above.",
        rich_help_panel=SEARCH,
    ),
]
ObjectiveOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="METRIC",
        help="Metric to improve, in its own direction; repeatable, for a Pareto front.",
        show_default="the one that judges the runs",
        rich_help_panel=SEARCH,
    ),
]
SamplerOption = Annotated[
    Literal["tpe", "gp", "cmaes", "nsgaii", "random"] | None,
    typer.Option(
        help="Optuna's sampler.", show_default="the experiment's, tpe", rich_help_panel=SEARCH
    ),
]
PrunerOption = Annotated[
    Literal["hyperband", "median", "wilcoxon", "none"] | None,
    typer.Option(
        help="Optuna's pruner, which ends trials early.",
        show_default="the experiment's, else as their number of evaluations allows",
        rich_help_panel=SEARCH,
    ),
]
TrialSeedsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--seed",
        metavar="SEED,...",
        help="Seeds of training: a trial is one run for each, and its score their mean. "
        "Comma-separated or repeated.",
        show_default="the experiment's, 0",
        rich_help_panel=SEARCH,
    ),
]


@dataclass(frozen=True)
class StudyRequest:
    """A study as it is asked for.

    Attributes:
        variant: to start from; None for the first.
        assignments: the person's changes of the base.
        space: ``--space`` options; none for the experiment's own.
        settings: of the study; None where the experiment's count.
    """

    name: str
    experiment: str
    variant: str | None
    assignments: Sequence[str]
    space: Sequence[str]
    settings: Mapping[str, Any]


def make_spec(asked: StudyRequest) -> StudySpec:
    """What the experiment declares, with the person's changes; checked.

    Raises:
        RequestError: a teacher that is not there or has no recipe, nothing to search, a setting
            both searched and set, or as :meth:`StudySpec.check`.
    """
    from workbench.registry import get_experiment
    from workbench.studies import StudySettings, StudySpec
    from workbench.studies.space_text import read_options
    from workbench.teachers.catalog import check_teacher
    from workbench.training.recipes import check_known

    experiment = get_experiment(asked.experiment)
    settings = (experiment.study or StudySettings()).with_changes(
        {key: value for key, value in asked.settings.items() if value is not None}
    )
    resolved = experiment.resolve(asked.variant, asked.assignments)
    check_teacher(resolved.config.teacher)  # first: a misspelt one has no recipe, and no metrics
    check_known(resolved)
    space = read_options(asked.space) if asked.space else experiment.space_on(resolved)
    if not space:
        raise RequestError(
            f"Experiment {asked.experiment!r} declares no search space. Say what to search by "
            "--space generator.steps=1..8, or in the experiment's file: "
            '[space] "generator.steps" = { low = 1, high = 8 }.'
        )
    _check_free(space, asked.assignments)
    spec = StudySpec(asked.name, asked.experiment, resolved.config, space, settings)
    spec.check()
    return spec


def _check_free(space: SearchSpace, assignments: Sequence[str]) -> None:
    """Refuse a value for what every trial draws."""
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        if key in space and not space[key].when:
            raise RequestError(
                f"--set {assignment} has no effect: the study searches {key}. Leave one of them "
                "out; with --space only what it names is searched."
            )
