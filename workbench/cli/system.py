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
        str | None, typer.Option(help="Print the address of this experiment.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="To listen on.")] = 5000,
    host: Annotated[str, typer.Option(help="Loopback by default.")] = "127.0.0.1",
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open the MLflow UI on the workspace's store; Ctrl-C stops it."""
    from workbench.tracking import (
        default_artifact_root,
        default_uri,
        ensure_store,
        experiment_address,
    )
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    base = f"http://{host}:{port}"
    if uri.startswith(("http://", "https://")):
        say(f"The store is a server already: open {uri}")
        return
    ensure_store(uri, None if tracking_uri else default_artifact_root(place.root))
    address = experiment_address(base, uri, experiment) if experiment else base
    say(f"MLflow UI:  {address}   (Ctrl-C stops it)")
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri),
        *("--host", host, "--port", str(port), "--workers", "1"),
        *("--default-artifact-root", str(default_artifact_root(place.root))),
    ]
    os.execve(sys.executable, command, {**os.environ, **environment})


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
