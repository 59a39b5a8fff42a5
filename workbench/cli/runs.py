"""workbench runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import JsonOption, TrackingOption, WorkspaceOption

app = typer.Typer(
    name="runs",
    no_args_is_help=True,
    help="List, show, compare and remove runs, and send what was spooled.",
)


@app.command("list", epilog="Example:  workbench runs list --experiment quickstart --json")
def list_(
    experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="List only this experiment's runs.")
    ] = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Every run of the workspace: state, progress and scores, read from the run folders."""
    from workbench.metrics import title_of
    from workbench.runs.summary import summarize
    from workbench.training.run_folder import all_runs
    from workbench.workspace import open_workspace

    rows = [
        summarize(folder)
        for folder in all_runs(open_workspace(workspace, create=False))
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
        except (WorkbenchError, OSError) as error:  # the others are delivered all the same
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


RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run by its name, the beginning of it, its fingerprint, or its folder.",
    ),
]


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


@app.command(epilog="Example:  workbench runs du")
def du(workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """What each run takes on disk, and what the workspace keeps beside the runs."""
    from workbench.runs.disk_usage import disk_usage
    from workbench.sizes import as_text
    from workbench.workspace import open_workspace

    rows = disk_usage(open_workspace(workspace, create=False))
    if json_output:
        print_json(rows)
        return
    cells = [
        [
            row["what"],
            as_text(row["bytes"]),
            ", ".join(f"{part} {as_text(size)}" for part, size in row["sizes"].items()),
        ]
        for row in rows
    ]
    print_table(
        ["what", "size", "of which"],
        cells,
        f"{as_text(sum(row['bytes'] for row in rows))} together",
    )


@app.command(epilog="Example:  workbench runs rm t_range/full-seed3")
def rm(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs to remove.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    unsent: Annotated[
        bool,
        typer.Option("--unsent", help="Also delete what the tracking store lacks."),
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Delete runs' folders: checkpoints, results, pictures. Says what it frees, and asks.

    What a run said is sent to the tracking store first, which keeps it. Runs are named in full: a
    name's beginning may mean another run tomorrow.
    """
    from workbench.errors import RequestError
    from workbench.runs.description import sizes_of
    from workbench.runs.disk_usage import check_removable, remove
    from workbench.sizes import as_text
    from workbench.training.run_folder import find_run
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    folders = list({run.path: run for run in (find_run(place, each) for each in runs)}.values())
    named = {*runs, *(str(Path(each).absolute()) for each in runs)}
    for folder in folders:
        if named.isdisjoint({folder.name, folder.path.name, str(folder.path)}):
            raise RequestError(f"Name a run in full to delete it: {folder.name}.")
    check_removable(folders)
    for folder in folders:
        say(f"{folder.name}: {as_text(sum(sizes_of(folder).values()))}")
    if not yes:
        if not sys.stdin.isatty():
            raise RequestError("Nobody can be asked here: add --yes to delete these runs.")
        typer.confirm("Delete them for good?", abort=True, err=True)
    for folder in folders:
        freed = remove(folder, tracking_uri, unsent=unsent)
        say(f"Deleted {folder.name}: {as_text(freed)} are free again.")
    if not unsent:
        say("The tracking store keeps what they said.")


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


def _scores(row: dict[str, Any], shared: str | None) -> tuple[str, str]:
    """Last and best of what judges a run, with its name where runs differ in it."""
    from workbench.metrics import title_of

    name = "" if shared or row["primary_metric"] is None else f" {title_of(row['primary_metric'])}"
    last, best = ("-" if row[key] is None else f"{row[key]:.2f}{name}" for key in ("score", "best"))
    return last, best
