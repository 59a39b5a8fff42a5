"""What a person asks of `workbench studies run`, and the study that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from workbench.cli.options import EXECUTION
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.studies import SearchSpace, StudySpec

SEARCH = "What to search"

TrialsOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="How many trials the whole study has; those it has already count. A crash of its "
        "database may add one a worker.",
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=1,
        help="How many workers to start; others may join from anywhere.",
        rich_help_panel=EXECUTION,
    ),
]
NameOption = Annotated[
    str | None, typer.Option(help="Name of the study.", show_default="the experiment's")
]
VariantOption = Annotated[
    str | None,
    typer.Option(
        help="Variant whose settings the trials start from.",
        show_default="the first",
        rich_help_panel=SEARCH,
    ),
]
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
        help="Optuna's sampler, which draws the points.",
        show_default="the experiment's, tpe",
        rich_help_panel=SEARCH,
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
SamplerSeedOption = Annotated[
    int | None, typer.Option(min=0, help="Seed of Optuna's sampler.", rich_help_panel=SEARCH)
]
NewVersionOption = Annotated[
    bool,
    typer.Option(
        "--new-version",
        help="Begin a new study beside the one of this name.",
        rich_help_panel=SEARCH,
    ),
]
SharedSqliteOption = Annotated[
    bool,
    typer.Option(
        "--shared-sqlite",
        help="Let Slurm jobs share SQLite databases: their file system is shared by all nodes, and "
        "its locks hold on every one.",
        rich_help_panel=EXECUTION,
    ),
]


def make_spec(
    name: str | None,
    experiment: str,
    variant: str | None,
    assignments: Sequence[str],
    space_options: Sequence[str],
    settings: Mapping[str, Any],
) -> StudySpec:
    """What an experiment declares, with a person's changes; checked.

    Args:
        name: of the study; None for the experiment's.
        variant: to start from; None for the first.
        assignments: changes of the base.
        space_options: ``--space`` options; none for the experiment's own space.
        settings: of the study; None where the experiment's count.

    Raises:
        RequestError: a teacher that is not there or has no recipe, nothing to search, a setting
            both searched and set, or as :meth:`StudySpec.check`.
    """
    from workbench.registry import get_experiment
    from workbench.studies import StudySettings, StudySpec
    from workbench.studies.space_text import read_options
    from workbench.teachers.catalog import check_teacher
    from workbench.training.recipes import check_known

    declared = get_experiment(experiment)
    chosen = (declared.study or StudySettings()).with_changes(
        {key: value for key, value in settings.items() if value is not None}
    )
    resolved = declared.resolve(variant, assignments)
    check_teacher(resolved.config.teacher)  # first: a misspelt one has no recipe, and no metrics
    check_known(resolved)
    space = read_options(space_options) if space_options else declared.space_on(resolved)
    if not space:
        raise RequestError(
            f"Experiment {experiment!r} declares no search space. Say what to search by "
            "--space generator.steps=1..8, or in the experiment's file: "
            '[space] "generator.steps" = { low = 1, high = 8 }.'
        )
    _check_free(space, assignments)
    spec = StudySpec(name or experiment, experiment, resolved.config, space, chosen)
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
