"""workbench ui and workbench doctor."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import (
    HostOption,
    JsonOption,
    NprocOption,
    PortOption,
    RecipeOption,
    SetOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    with_selectors,
)

if TYPE_CHECKING:
    from workbench.doctor.machine import Check
    from workbench.doctor.teacher import TeacherReport


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench ui --port 5001")(ui)
    app.command(epilog="Example:  workbench doctor --teacher sana-0.6b-512 --nproc 8")(doctor)


def ui(
    experiment: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Experiment whose comparison opens.",
            show_default="the newest run's",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC",
            help="Metric that is drawn first and sorted by, such as eval/fid.",
            show_default="what judged the runs themselves",
        ),
    ] = None,
    port: PortOption = None,
    host: HostOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Serve the MLflow UI, opened on an experiment's comparison; Ctrl-C stops it.

    If the runs are tracked by a server, its UI is up already: the address there is printed.
    """
    from workbench.errors import RequestError
    from workbench.tracking import (
        default_artifact_root,
        default_uri,
        ensure_store,
        server_base,
        server_command,
        server_environment,
    )
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=workspace is None)
    uri = tracking_uri or default_uri(place.root)
    base = server_base(uri)
    if base is not None:
        if port is not None or host is not None:
            raise RequestError("The store is a server already; --host and --port are for one here.")
        typer.echo(_address(base, uri, experiment, metric))
        return
    artifacts = default_artifact_root(place.root)
    host, port = host or "127.0.0.1", port or 5000
    address = _address(f"http://{host}:{port}", uri, experiment, metric)
    ensure_store(uri, artifacts)
    if host not in ("127.0.0.1", "::1", "localhost"):
        say(
            f"Whoever reaches {host}:{port} can read, change and delete every run: this server "
            "asks for no password. docs/team.md shows one that does."
        )
    say(f"MLflow UI in about 10 s:  {address}   (Ctrl-C stops it)")
    command = server_command(artifacts, port, host)
    os.execve(sys.executable, command, {**os.environ, **server_environment(uri)})


def _address(base: str, uri: str, experiment: str | None, metric: str | None) -> str:
    """Where the experiment's comparison opens, once that is saved in the store."""
    from workbench.errors import RequestError
    from workbench.tracking import list_runs, publish_comparison

    if experiment is None:
        newest = list_runs(uri, limit=1)
        if not newest:
            return base
        experiment = newest[0].experiment
    runs = list_runs(uri, experiment, limit=500)
    if not runs:
        raise RequestError(f"Experiment {experiment!r} has no tracked run yet.")
    return publish_comparison(uri, runs, base, metric)


def doctor(
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    nproc: NprocOption = 1,
    set_: SetOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that this machine can run the workbench, or distil a teacher with some settings."""
    if teacher is not None:
        _doctor_of_teacher(teacher, recipe, nproc, set_ or [], workspace, json_output)
        return
    from workbench.doctor.machine import run_checks
    from workbench.errors import RequestError, WorkbenchError

    if set_ or recipe or nproc > 1:
        raise RequestError(
            "--set, --recipe and --nproc say how a teacher is distilled: add --teacher NAME."
        )
    checks = run_checks(workspace, tracking_uri)
    if json_output:
        print_json([check.as_dict() for check in checks])
    else:
        _print_checks(checks)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise WorkbenchError(f"Not ready: {', '.join(failed)}.")


def _doctor_of_teacher(
    teacher: str,
    recipe: str | None,
    nproc: int,
    assignments: list[str],
    workspace: Path | None,
    json_output: bool,
) -> None:
    from workbench.doctor.teacher import examine
    from workbench.errors import WorkbenchError
    from workbench.training.recipes import run_config
    from workbench.workspace import open_workspace

    config = run_config(*with_selectors(assignments, teacher, recipe))
    report = examine(open_workspace(workspace), config, nproc)
    if json_output:
        print_json(report.as_dict())
    else:
        _print_checks(report.checks)
        _print_memory(report)
    if not report.fits:
        failed = [check.name for check in report.checks if not check.passed]
        raise WorkbenchError(f"{teacher} cannot be distilled here so: {', '.join(failed)}.")


def _print_checks(checks: Sequence[Check]) -> None:
    print_table(
        ["check", "", "finding"],
        [[c.name, "ok" if c.passed else "PROBLEM", c.finding] for c in checks],
    )


def _print_memory(report: TeacherReport) -> None:
    """The parts of the worst moment, and what would fit."""
    from workbench.sizes import as_text

    memory = report.memory
    if memory is None:
        return
    parts = {**memory.parts, "total": memory.total}
    rows = [[name, as_text(size)] for name, size in parts.items() if size]
    print_table(["during a step", "memory a rank"], rows)
    if memory.total <= report.available:
        return
    wish = report.wish
    if wish is None:
        typer.echo("Nothing that was tried fits: bf16 adapters, one sample at a time, more ranks.")
        return
    options = [f"--set {shlex.quote(text)}" for text in wish.assignments]
    if wish.ranks != report.ranks:
        options.append(f"--nproc {wish.ranks}")
    typer.echo(f"This would fit ({as_text(wish.estimate.total)} a rank):  {' '.join(options)}")
