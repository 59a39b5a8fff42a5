"""workbench runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from workbench.cli.common import (
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    print_json,
    print_table,
    say,
)

app = typer.Typer(name="runs", no_args_is_help=True, help="List runs, and send what was spooled.")


@app.command("list", epilog="Example:  workbench runs list --experiment quickstart --json")
def list_(
    experiment: Annotated[str | None, typer.Option(help="Only this experiment.")] = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Every run of the workspace: state, progress and scores, read from the run folders."""
    from workbench.metrics import title_of
    from workbench.runs import all_runs, summarize
    from workbench.workspace import open_workspace

    rows = [
        summarize(folder)
        for folder in all_runs(open_workspace(workspace))
        if experiment in (None, folder.path.parent.name)
    ]
    if json_output:
        print_json(rows)
        return
    judged = {row["primary_metric"] for row in rows if row["primary_metric"]}
    shared = judged.pop() if len(judged) == 1 else None  # one name for all, or one a run
    title = title_of(shared) if shared else "score"
    names = [title, f"best {title}"]
    print_table(
        ["run", "state", "kimg", *names],
        [
            [
                row["run"],
                row["state"],
                f"{row['kimg']:g}",
                *_scores(row, shared),
            ]
            for row in rows
        ],
    )
    if rows:
        say("best: chosen from a run's evaluations, so it looks better than its weights are.")


@app.command(epilog="Example:  workbench runs sync")
def sync(
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Deliver to the tracking store what could not be delivered while the runs went on."""
    from workbench.errors import WorkbenchError
    from workbench.registry import plan_folders
    from workbench.runs import all_runs
    from workbench.tracking import sync as deliver
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    tracked = [*(folder.path for folder in all_runs(place)), *plan_folders(place)]
    rows: list[dict[str, Any]] = []
    for path in tracked:
        try:
            left, problem = deliver(path, tracking_uri), ""
        except WorkbenchError as error:  # the others are delivered all the same
            left, problem = -1, str(error)
        name = f"{path.parent.name}/{path.name}"
        rows.append({"run": name, "undelivered": left, "problem": problem})
    if json_output:
        print_json(rows)
    else:
        print_table(
            ["run", "undelivered", "problem"],
            [
                [row["run"], "-" if row["problem"] else str(row["undelivered"]), row["problem"]]
                for row in rows
            ],
        )
    if any(row["undelivered"] for row in rows):
        raise WorkbenchError("The tracking store did not take everything; try again later.")


def _scores(row: dict[str, Any], shared: str | None) -> tuple[str, str]:
    """Last and best of what judges a run, with its name where runs differ in it."""
    from workbench.metrics import title_of

    name = "" if shared or row["primary_metric"] is None else f" {title_of(row['primary_metric'])}"
    last, best = ("-" if row[key] is None else f"{row[key]:.2f}{name}" for key in ("score", "best"))
    return last, best
