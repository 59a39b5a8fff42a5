"""What finished runs look like on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from workbench.cli.common import print_table, say
from workbench.cli.follow_up import follow_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from workbench.runs.execution import RunOutcome
    from workbench.workspace import Workspace

_NO_SCORES = ("model", "steps", "nfe", "ms_per_image", "fingerprint", "how")


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
        show_fresh(results)
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
    """The table of teacher and student by steps, each with its schedule, shift and guidance."""
    from workbench.metrics import title_of

    if not table:
        say(f"{title}: nothing was scored; evaluation.metrics is empty.")
        return
    scores = _scores(table)
    print_table(
        ["model", "sampler", "steps", "NFE", *(title_of(score) for score in scores), "ms/image"],
        [
            [
                str(row["model"]),
                str(row.get("how", "")),
                str(row["steps"]),
                str(row["nfe"]),
                *(_cell(row, score) for score in scores),
                f"{row['ms_per_image']:.2f}",
            ]
            for row in table
        ],
        title,
    )


def show_fresh(results: Mapping[str, Any]) -> None:
    """What the last and the best weights score at fresh evaluation seeds, where that was asked."""
    from workbench.metrics import title_of
    from workbench.training.run_folder import judged_by

    judge, fresh = judged_by(results), results.get("fresh") or []
    found = {
        weights: [row[judge] for row in fresh if row["weights"] == weights and judge in row]
        for weights in ("last", "best")
    }
    if not judge or not found["last"]:
        return
    told = {weights: ", ".join(map(_number, values)) for weights, values in found.items()}
    say(f"{title_of(judge)} of the last weights at fresh evaluation seeds: {told['last']}.")
    best = results["best"]
    if found["best"] and best["nimg"] != results["nimg"]:
        say(
            f"Best evaluation: {_number(best[judge])} at {best['nimg'] / 1000:g} kimg, chosen from "
            f"all of them; its weights at the same fresh seeds: {told['best']}."
        )


def _print_several(outcomes: Sequence[RunOutcome]) -> None:
    """What judges the runs, of every model and step count that any of them measured, a line a run.

    Beside it another score of the student at all its steps: of two kinds that are told apart.
    """
    from workbench.metrics import title_of
    from workbench.training.run_folder import judged_by

    rows_of_all = [row for outcome in outcomes for row in outcome.results["table"]]
    measured = _scores(rows_of_all)
    judge = judged_by(outcomes[0].results)
    score = judge if judge in measured else "ms_per_image"
    beside = _other_kind(score, measured)
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
                *(_cell(table.get(key, {}), score) for key in columns),
                *(_cell(final, name) for name in beside),
            ]
        )
    names = [f"{model} {steps}" for model, steps in columns]
    title = f"{outcomes[0].folder.path.parent.name}: {title_of(score)} by model and steps"
    print_table(["variant", "seed", *names, *map(title_of, beside)], rows, title)


def _scores(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that any of the rows has, as they stand there."""
    return list(dict.fromkeys(key for row in table for key in row if key not in _NO_SCORES))


def _other_kind(score: str, measured: Sequence[str]) -> list[str]:
    """The first score that is the better the higher, beside one that is not; else a distance."""
    from workbench.metrics import Goal, first_distance, first_rising, metric_info

    find = first_distance if metric_info(score).goal is Goal.HIGHER else first_rising
    return [name for name in [find(name for name in measured if name != score)] if name]


def _cell(row: Mapping[str, Any], score: str) -> str:
    return _number(row[score]) if score in row else ""


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"
