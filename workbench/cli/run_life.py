"""workbench runs logs, stop and archive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_error, say
from workbench.cli.options import TrackingOption, WorkspaceOption

if TYPE_CHECKING:
    from workbench.training.run_folder import RunFolder
    from workbench.workspace import Workspace

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Name, its beginning, its fingerprint, or its folder.",
    ),
]
RunsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN...",
        help="Runs, named in full.",
    ),
]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench runs logs quickstart/default-seed0 --follow")(logs)
    app.command(epilog="Example:  workbench runs stop t_range/full-seed3")(stop)
    app.command(epilog="Example:  workbench runs archive t_range/full-seed3")(archive)


def logs(
    run: RunArgument,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added until the run ends.")
    ] = False,
    lines: Annotated[
        int | None,
        typer.Option(min=0, help="Print only so many of the last lines.", show_default=False),
    ] = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Print what a run printed, over all its starts.

    A run in a process of its own and a Slurm job have a log. What a run in a terminal printed is
    in that terminal alone: the metrics and warnings of its journal are printed instead.
    """
    from workbench.launching.control import find_started, log_file, log_lines
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    folder = find_started(place, run)
    if log_file(place, folder) is None:
        say("This run printed to the terminal that it was started in. What its journal tells:")
    try:
        for line in log_lines(place, folder, last=lines, follow=follow):
            typer.echo(line)
    except KeyboardInterrupt:
        if not follow:
            raise


def stop(
    runs: RunsArgument, workspace: WorkspaceOption = None, tracking_uri: TrackingOption = None
) -> None:
    """Ask runs to write a checkpoint and end; the command that started them resumes them.

    A run's process hears it at this machine, a Slurm job wherever it is. A process that does
    several runs one after the other begins none of the next ones.
    """
    from workbench.errors import WorkbenchError
    from workbench.launching.control import stop_run
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    problems = 0
    for folder in _to_stop(place, runs, tracking_uri):
        try:
            asked = stop_run(place, folder)
        except WorkbenchError as error:  # the others are asked all the same
            if len(runs) == 1:
                raise
            problems += 1
            print_error(str(error))
        else:
            say(f"Asked {asked} of {folder.name} to stop: it writes a checkpoint and ends.")
    if problems:
        raise WorkbenchError(f"{problems} of {len(runs)} runs were not asked.")


def _to_stop(place: Workspace, names: list[str], tracking_uri: str | None) -> list[RunFolder]:
    from workbench.errors import RequestError
    from workbench.launching.control import find_started
    from workbench.runs.listing import host_in_store

    folders = {}
    for name in names:
        try:
            folder = find_started(place, name)
        except RequestError:
            if host := host_in_store(place, tracking_uri, name):
                raise RequestError(f"{name} is a run of {host}: run this command there.") from None
            raise
        folders[folder.path] = folder
    return list(folders.values())


def archive(runs: RunsArgument, workspace: WorkspaceOption = None) -> None:
    """Set runs aside, so that the same command starts anew. Nothing is deleted.

    The folder gets another name, which ends in ~ and a number, and keeps all that it holds.
    """
    from workbench.runs.archive import archive as set_aside
    from workbench.runs.archive import check_idle
    from workbench.workspace import open_workspace

    folders = find_in_full(open_workspace(workspace, create=False), runs, "archive")
    check_idle(folders)
    for folder in folders:
        kept = set_aside(folder)
        say(f"{folder.name} is now {kept.name}; its name is free, and its command starts anew.")


def find_in_full(place: Workspace, names: list[str], what_for: str) -> list[RunFolder]:
    """This workspace's runs by their whole names: a beginning may mean another run tomorrow.

    Raises:
        RequestError: no such run, a name that is not whole, or a folder outside the workspace.
    """
    from pathlib import Path

    from workbench.errors import RequestError
    from workbench.training.run_folder import find_run

    folders = list({run.path: run for run in (find_run(place, each) for each in names)}.values())
    named = {*names, *(str(Path(each).resolve()) for each in names)}
    for folder in folders:
        if folder.path.resolve().parent.parent != place.runs.resolve():
            raise RequestError(
                f"{folder.path} is not below {place.runs}: what is {what_for}d is a run of the "
                "workspace."
            )
        if named.isdisjoint({folder.name, str(folder.path), str(folder.path.resolve())}):
            raise RequestError(f"Name a run in full to {what_for} it: {folder.name}.")
    return folders
