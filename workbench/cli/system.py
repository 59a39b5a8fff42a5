"""workbench ui and workbench doctor."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from workbench.cli.common import (
    JsonOption,
    TrackingOption,
    WorkspaceOption,
    print_json,
    print_table,
    say,
)


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench ui --port 5001")(ui)
    app.command(epilog="Example:  workbench doctor")(doctor)


def ui(
    experiment: Annotated[
        str | None, typer.Option(help="Start on this experiment's charts.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Loopback by default.")] = "127.0.0.1",
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Serve the MLflow UI on the workspace's store; Ctrl-C stops it."""
    from workbench.tracking import (
        SERVER_ENVIRONMENT,
        default_artifact_root,
        default_uri,
        ensure_store,
        server_command,
    )
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    artifacts = default_artifact_root(place.root)
    command = server_command(uri, artifacts, port, host)
    address = _address(f"http://{host}:{port}", uri, experiment)
    ensure_store(uri, artifacts)
    say(f"MLflow UI in about 10 s:  {address}   (Ctrl-C stops it)")
    os.execve(sys.executable, command, {**os.environ, **SERVER_ENVIRONMENT})


def _address(base: str, uri: str, experiment: str | None) -> str:
    from workbench.errors import RequestError
    from workbench.tracking import experiment_address, list_runs

    if experiment is None:
        return base
    runs = list_runs(uri, experiment, limit=1)
    if not runs:
        raise RequestError(f"Experiment {experiment!r} has no tracked run yet.")
    return experiment_address(base, runs[0].experiment_id, charts=True)


def doctor(
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Check that this machine can run the workbench: versions, device, disk, store, teacher."""
    from workbench.errors import WorkbenchError
    from workbench.runs.doctor import run_checks

    checks = run_checks(workspace, tracking_uri)
    if json_output:
        print_json([check.as_dict() for check in checks])
    else:
        print_table(
            ["check", "", "finding"],
            [[c.name, "ok" if c.passed else "PROBLEM", c.finding] for c in checks],
        )
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise WorkbenchError(f"Not ready: {', '.join(failed)}.")
