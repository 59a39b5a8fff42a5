"""What finished runs look like on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from workbench.cli.common import print_table, say
from workbench.cli.follow_up import follow_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workbench.runs import RunOutcome
    from workbench.workspace import Workspace


def show_outcomes(
    outcomes: Sequence[RunOutcome], figures: list[str], workspace: Workspace, tracking_uri: str
) -> None:
    """One run's table, or one line for each of several; the figures; and where to compare."""
    if not outcomes:
        return
    for outcome in outcomes:
        if not outcome.trained:
            say(f"{outcome.folder.name} was finished before; --fresh starts over. Its results:")
    if len(outcomes) == 1:
        results = outcomes[0].results
        print_results(results["table"], str(results["run"]))
    else:
        _print_several(outcomes)
    experiment = outcomes[0].folder.path.parent.name
    for figure in figures:
        typer.echo(figure)
    if len(outcomes) > 1:
        command = follow_up(workspace, tracking_uri, "compare", experiment)
        typer.echo(f"Compare the variants:         {command}")
    command = follow_up(workspace, tracking_uri, "ui", "--experiment", experiment)
    typer.echo(f"Compare runs in the browser:  {command}")


def print_results(table: list[dict[str, Any]], title: str) -> None:
    """The table of teacher and student by steps."""
    from workbench.tracking.curve import title_of

    scores = [
        key
        for key in table[0]
        if key not in ("model", "steps", "nfe", "ms_per_image", "fingerprint")
    ]
    print_table(
        ["model", "steps", "NFE", *(title_of(score) for score in scores), "ms/image"],
        [
            [
                str(row["model"]),
                str(row["steps"]),
                str(row["nfe"]),
                *(_number(row[score]) for score in scores),
                f"{row['ms_per_image']:.2f}",
            ]
            for row in table
        ],
        title,
    )


def _print_several(outcomes: Sequence[RunOutcome]) -> None:
    """The headline score of every model and step count that any run measured, a line a run."""
    from workbench.tracking.curve import title_of

    headline = str(outcomes[0].results.get("headline", "fid"))
    tables = [
        {(row["model"], row["steps"]): row for row in outcome.results["table"]}
        for outcome in outcomes
    ]
    # Teacher first, then student; many steps before few.
    columns = sorted(
        {key for table in tables for key in table}, key=lambda k: (k[0] != "teacher", -k[1])
    )
    rows = []
    for outcome, table in zip(outcomes, tables, strict=True):
        config = outcome.folder.config()
        final = table.get(("student", config.generator.steps), {})
        rows.append(
            [
                config.variant,
                str(config.seed),
                *(_number(table[key][headline]) if key in table else "" for key in columns),
                _number(final["alignment"]) if "alignment" in final else "",
            ]
        )
    names = [f"{model} {steps}" for model, steps in columns]
    title = f"{outcomes[0].folder.path.parent.name}: {title_of(headline)} by model and steps"
    print_table(["variant", "seed", *names, "alignment"], rows, title)


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"
