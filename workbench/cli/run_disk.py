"""workbench runs du, rm and gc."""

from __future__ import annotations

from typing import Annotated

import typer

from workbench.cli.common import confirm_deletion, print_error, print_json, print_table, say
from workbench.cli.options import JsonOption, TrackingOption, WorkspaceOption
from workbench.cli.run_life import RunsArgument, find_in_full

YesOption = Annotated[bool, typer.Option("--yes", help="Delete without asking.")]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench runs du")(du)
    app.command(epilog="Example:  workbench runs rm t_range/full-seed3")(rm)
    app.command(epilog="Example:  workbench runs gc --dry-run")(gc)


def du(workspace: WorkspaceOption = None, json_output: JsonOption = False) -> None:
    """What each run takes on disk, what the workspace keeps beside the runs, and what may go."""
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
            as_text(row["droppable"]) if row["droppable"] else "-",
            ", ".join(f"{part} {as_text(size)}" for part, size in row["sizes"].items()),
        ]
        for row in rows
    ]
    title = f"{as_text(sum(row['bytes'] for row in rows))} together"
    print_table(["what", "size", "may go", "of which"], cells, title)
    if any(row["droppable"] for row in rows):
        say("What may go: `workbench runs gc --dry-run` says why; archived runs with --archived.")


def rm(
    runs: RunsArgument,
    yes: YesOption = False,
    unsent: Annotated[
        bool, typer.Option("--unsent", help="Also delete what the tracking store does not have.")
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Delete runs' folders: checkpoints, results, pictures. Says what it frees, and asks.

    What a run said is sent to the tracking store first, which keeps it. Runs are named in full: a
    name's beginning may mean another run tomorrow.
    """
    from workbench.errors import WorkbenchError
    from workbench.runs.archive import check_idle, remove
    from workbench.runs.description import sizes_of
    from workbench.sizes import as_text
    from workbench.workspace import open_workspace

    folders = find_in_full(open_workspace(workspace, create=False), runs, "delete")
    check_idle(folders)
    for folder in folders:
        say(f"{folder.path}: {as_text(sum(sizes_of(folder).values()))}")
    confirm_deletion(yes, "these runs")
    problems = 0
    for folder in folders:
        try:
            freed = remove(folder, tracking_uri, unsent=unsent)
        except WorkbenchError as error:  # the others go all the same
            if len(folders) == 1:
                raise
            problems += 1
            print_error(str(error))
        else:
            say(f"Deleted {folder.name}: {as_text(freed)} are free again.")
    if not unsent and problems < len(folders):
        say("The tracking store keeps what they said.")
    if problems:
        raise WorkbenchError(f"{problems} of {len(folders)} were not deleted.")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List it and delete nothing.")] = False,
    yes: YesOption = False,
    archived: Annotated[
        bool, typer.Option("--archived", help="Also delete the runs that were set aside.")
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Delete what nothing needs any more. Says what, why and how large it is, and asks.

    A finished run keeps its last and its best checkpoint. Caches go that no run's settings name,
    and what processes left behind that died. A run that goes on keeps all that it has, and an
    archived one is sent to its tracking store first.
    """
    from workbench.errors import RequestError, WorkbenchError
    from workbench.runs.disk_usage import drop, droppable
    from workbench.sizes import as_text
    from workbench.workspace import open_workspace

    if json_output and not (dry_run or yes):
        raise RequestError("--json cannot ask: add --dry-run, or --yes to delete.")
    place = open_workspace(workspace, create=False)
    found = droppable(place, archived=archived)
    if json_output:
        print_json([item.as_dict() for item in found])
    elif found:
        rows = [
            [str(item.path.relative_to(place.root)), as_text(item.size), item.reason]
            for item in found
        ]
        total = as_text(sum(item.size for item in found))
        print_table(["path", "size", "reason"], rows, f"{total} may go from {place.root}")
    if not found:
        say("Everything here is needed.")
    if dry_run or not found:
        return
    confirm_deletion(yes, "all this")
    freed, problems = 0, 0
    for item in found:
        try:
            drop(item, tracking_uri)
        except WorkbenchError as error:  # the others go all the same
            problems += 1
            print_error(str(error))
        else:
            freed += item.size
    say(f"{as_text(freed)} are free again.")
    if problems:
        raise WorkbenchError(f"{problems} of {len(found)} were not deleted.")
