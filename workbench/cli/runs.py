"""workbench runs."""

from __future__ import annotations

from pathlib import Path
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
    to: Annotated[
        str | None,
        typer.Option(
            help="Another MLflow store, to which the runs move with all that they ever said.",
            show_default=False,
        ),
    ] = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Deliver to each run's own store what could not be delivered while the run went on.

    Where a run's store needs a password in its address, --tracking-uri names that address again.
    """
    from workbench.errors import AlreadyRunningError, WorkbenchError
    from workbench.registry import plan_folders
    from workbench.runs import all_runs
    from workbench.tracking import sync as deliver
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    tracked = [*(folder.path for folder in all_runs(place)), *plan_folders(place)]
    rows: list[dict[str, Any]] = []
    failed = False
    for path in tracked:
        left: int | None = None
        problem = ""
        try:
            left = deliver(path, tracking_uri, to=to)
            failed |= left > 0
        except AlreadyRunningError as error:  # its own process delivers
            problem = str(error)
        except WorkbenchError as error:  # the others are delivered all the same
            failed, problem = True, str(error)
        rows.append({"run": f"{path.parent.name}/{path.name}", "store": _store(path)})
        rows[-1] |= {"undelivered": left, "problem": problem}
    if json_output:
        print_json(rows)
    else:
        print_table(
            ["run", "store", "undelivered", "problem"],
            [["-" if value is None else str(value) for value in row.values()] for row in rows],
        )
    if failed:
        raise WorkbenchError("The tracking store did not take everything; try again later.")


def _store(path: Path) -> str | None:
    """Where a run is tracked, without a password; None if that cannot be read."""
    from workbench.errors import RequestError
    from workbench.tracking import load_record

    try:
        record = load_record(path)
    except RequestError:
        return None
    return None if record is None else record.tracking_uri


def _scores(row: dict[str, Any], shared: str | None) -> tuple[str, str]:
    """Last and best of what judges a run, with its name where runs differ in it."""
    from workbench.metrics import title_of

    name = "" if shared or row["primary_metric"] is None else f" {title_of(row['primary_metric'])}"
    last, best = ("-" if row[key] is None else f"{row[key]:.2f}{name}" for key in ("score", "best"))
    return last, best
