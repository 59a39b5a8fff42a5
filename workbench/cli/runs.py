"""workbench runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli import run_disk, run_life, run_list
from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import JsonOption, TrackingOption, WorkspaceOption
from workbench.cli.run_life import RunArgument

if TYPE_CHECKING:
    from workbench.workspace import Workspace

app = typer.Typer(
    name="runs",
    no_args_is_help=True,
    help="List, show, compare, stop and remove runs, and send what was spooled.",
)
for _module in (run_list, run_life, run_disk):
    _module.register(app)


@app.command(epilog="Example:  workbench runs sync")
def sync(
    to: Annotated[
        str | None,
        typer.Option(
            help="Move the runs, with all that they ever said, to this MLflow store.",
            metavar="URI",
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
    from workbench.tracking import DeletedRunError
    from workbench.tracking import sync as deliver
    from workbench.training.run_folder import all_runs
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    tracked = [*(folder.path for folder in all_runs(place)), *plan_folders(place)]
    rows: list[dict[str, Any]] = []
    failed = False
    for path in tracked:
        left: int | None = None
        problem = ""
        try:
            left = deliver(path, tracking_uri, to=to)
            failed |= left > 0
        except AlreadyRunningError as error:  # its own process delivers, but moves nothing
            failed, problem = failed or to is not None, str(error)
        except DeletedRunError as error:  # as a person wants it
            problem = str(error)
        except (WorkbenchError, OSError) as error:  # the others are delivered all the same
            failed, problem = True, str(error)
        rows.append({"run": f"{path.parent.name}/{path.name}", "store": _store(path)})
        rows[-1] |= {"undelivered": left, "problem": problem}
    if to is not None:
        _move_studies(place, to)
    if json_output:
        print_json(rows)
    else:
        print_table(
            ["run", "store", "undelivered", "problem"],
            [["-" if value is None else str(value) for value in row.values()] for row in rows],
        )
    if failed:
        raise WorkbenchError("The tracking store did not take everything; try again later.")


def _move_studies(place: Workspace, to: str) -> None:
    """Let the studies whose runs were moved have their own runs there too."""
    experiments = {path.name for path in place.runs.glob("study-*")}
    if experiments:
        from workbench.studies.parent import move_studies
        from workbench.studies.storage import ENVIRONMENT_VARIABLE, default_storage
        from workbench.tracking import default_artifact_root

        storage = os.environ.get(ENVIRONMENT_VARIABLE) or default_storage(place.root)
        move_studies(storage, experiments, to, default_artifact_root(place.root))


@app.command(epilog="Example:  workbench runs show quickstart/default-seed0")
def show(
    run: RunArgument, workspace: WorkspaceOption = None, json_output: JsonOption = False
) -> None:
    """One run: its state, scores, settings, versions, and what it takes on disk."""
    from workbench.runs.description import describe
    from workbench.sizes import as_text
    from workbench.training.run_folder import find_run
    from workbench.workspace import open_workspace

    told = describe(find_run(open_workspace(workspace, create=False), run))
    if json_output:
        print_json(told)
        return
    typer.echo(f"{told['run']}: {told['state']}, {told['kimg']:g} of {told['total_kimg']:g} kimg")
    typer.echo(told["folder"])
    if told["scores"]:
        columns = list(dict.fromkeys(name for row in told["scores"] for name in row))
        cells = [[_cell(row.get(name)) for name in columns] for row in told["scores"]]
        print_table(columns, cells, "Scores")
    for title, values in (("Settings", told["settings"]), ("Versions", told["versions"])):
        print_table(["name", "value"], [[name, _cell(v)] for name, v in values.items()], title)
    sizes = [[name, as_text(size)] for name, size in told["sizes"].items()]
    print_table(["part", "size"], sizes, "On disk")
    for event in told["events"]:
        typer.echo(str(event))


@app.command(epilog="Example:  workbench runs diff quickstart/default-seed0 t_range/full-seed0")
def diff(
    first: RunArgument,
    second: RunArgument,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """The settings, versions and scores in which two runs differ."""
    from dataclasses import asdict

    from workbench.runs.description import differences
    from workbench.training.run_folder import find_run
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    one, two = find_run(place, first), find_run(place, second)
    found = differences(one, two)
    if json_output:
        print_json([asdict(each) for each in found])
        return
    if not found:
        say("The two runs have equal settings, versions and scores.")
        return
    print_table(
        ["", "name", one.name, two.name],
        [[each.kind, each.name, _cell(each.first), _cell(each.second)] for each in found],
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _store(path: Path) -> str | None:
    """Where a run is tracked, without a password; None if that cannot be read."""
    from workbench.errors import RequestError
    from workbench.tracking import load_record, redact

    try:
        record = load_record(path)
    except RequestError:
        return None
    return None if record is None else redact(record.tracking_uri)
