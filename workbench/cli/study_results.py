"""workbench studies status, best, importance, plot and dashboard: how a study stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import PLACES, JsonOption, TrackingOption, WorkspaceOption
from workbench.errors import RequestError

if TYPE_CHECKING:
    from workbench.studies.overview import StudyView, TrialView
    from workbench.studies.trials import StudyTrials
    from workbench.workspace import Workspace

StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Database of the studies; many machines share postgresql://USER@HOST/DATABASE.",
        envvar="WORKBENCH_STUDY_STORAGE",
        show_default="SQLite in the workspace",
        rich_help_panel=PLACES,
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(help="Name of the study; its newest version counts, unless NAME.vN names one."),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    examples: dict[str, Callable[..., None]] = {
        "status quickstart --watch": status,
        "best quickstart --json": best,
        "importance quickstart": importance,
        "plot quickstart --out figures/": plot,
        "dashboard --port 8081": dashboard,
    }
    for example, command in examples.items():
        app.command(epilog=f"Example:  workbench studies {example}")(command)


def status(
    study: StudyArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until the study ends.")] = False,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Trials by state, the best, and the running ones with their progress."""
    from workbench.cli.study_live import StudyDisplay, render
    from workbench.studies.overview import study_view
    from workbench.workspace import open_workspace

    trials = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
    now = study_view(trials)
    if watch:
        display = StudyDisplay(trials)
        try:
            while now.ended < now.total:
                display.show(now)
                time.sleep(1.0)
                now = trials.storage.patiently(lambda: study_view(trials))
        finally:
            display.stop()
    if json_output:
        print_json(now.as_dict())
        return
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(render(now))
    for trial in (*now.failed, *now.refused):
        typer.echo(f"trial {trial.number} {trial.state}: {trial.error or 'its workers died'}")


def best(
    study: StudyArgument,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """The best trial's settings; with several objectives the Pareto front."""
    from workbench.studies.overview import study_view
    from workbench.workspace import open_workspace

    trials = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
    now = study_view(trials)
    if not now.best:
        raise RequestError(f"No trial of {now.name} is complete yet.")
    if json_output:
        shown = {key: now.as_dict()[key] for key in ("name", "objectives", "counts", "best")}
        print_json(shown)
    else:
        print_trials(now, now.best)


def importance(
    study: StudyArgument,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """How much of each objective's variance every setting explains (fANOVA)."""
    from workbench.studies.figures import importance_frame
    from workbench.workspace import open_workspace

    trials = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
    found = {}
    for place, objective in enumerate(trials.spec.objectives):
        frame = importance_frame(trials, place)
        found[objective.name] = dict(zip(frame["key"], frame["importance"].tolist(), strict=True))
    if json_output:
        print_json(found)
        return
    keys = next(iter(found.values()))
    rows = [[key, *(f"{weights[key]:.3f}" for weights in found.values())] for key in keys]
    titles = [objective.title for objective in trials.spec.objectives]
    print_table(["setting", *titles], rows, f"Share of the variance explained, {trials.spec.name}")


def plot(
    study: StudyArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the files.",
            show_default="studies/STUDY in the workspace",
        ),
    ] = None,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Draw history, importance, slices and Pareto front, with their numbers as CSV."""
    from workbench.studies.figures import draw_study
    from workbench.studies.parent import StudyRun
    from workbench.tracking import default_artifact_root, default_uri
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=workspace is None)
    trials = open_trials(study, storage, place)
    folder = out or place.root / "studies" / trials.spec.name
    files = draw_study(trials, folder)
    uri = tracking_uri or default_uri(place.root)
    StudyRun(trials, uri, default_artifact_root(place.root)).add_files(
        dict.fromkeys(files, "figures")
    )
    if json_output:
        print_json([str(file) for file in files])
    else:
        for file in files:
            typer.echo(file)


def dashboard(
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port that the server listens on.")
    ] = 8081,
    host: Annotated[str, typer.Option(help="Address that the server listens on.")] = "127.0.0.1",
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Serve Optuna's dashboard on the studies; Ctrl-C stops it."""
    from workbench.studies.storage import StudyStorage
    from workbench.studies.study import study_names
    from workbench.workspace import open_workspace

    try:
        from optuna_dashboard import run_server
    except ImportError as error:
        raise RequestError(
            f"The dashboard needs the Python package {error.name}: "
            "pip install 'workbench-sid[dashboard]'"
        ) from None
    opened = StudyStorage(address(storage, open_workspace(workspace, create=workspace is None)))
    names = study_names(opened)
    if not names:
        raise RequestError(
            f"{opened.shown} holds no study yet; `workbench studies run` begins one."
        )
    say(f"Studies {', '.join(names)}:  http://{host}:{port}/dashboard   (Ctrl-C stops it)")
    # In this process: its own command would show the storage's password to everyone here.
    run_server(opened.rdb, host=host, port=port)


def address(storage: str | None, place: Workspace) -> str:
    """The storage's URL."""
    from workbench.studies.storage import default_storage

    return storage or default_storage(place.root)


def print_trials(view: StudyView, trials: Sequence[TrialView]) -> None:
    """Settings down, trials across."""
    from workbench.studies.objectives import get_objective

    if not trials:
        return
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    rows = [[key, *(shown(trial.params.get(key, "-")) for trial in trials)] for key in keys]
    names = list(view.objectives)
    scores = [
        [get_objective(name).title, *(f"{trial.values[name]:.4g}" for trial in trials)]
        for name in names
    ]
    kind = "Best" if len(names) == 1 else "Pareto front"
    print_table(
        ["", *(f"trial {trial.number}" for trial in trials)],
        scores + rows,
        f"{kind} of {view.counts['complete']} complete trials, {view.name}",
    )


def open_trials(study: str, storage: str | None, place: Workspace) -> StudyTrials:
    """A study's trials.

    Raises:
        RequestError: no such study.
        WorkbenchError: the storage does not answer.
    """
    from workbench.studies.study import open_study
    from workbench.studies.trials import StudyTrials

    return StudyTrials(*open_study(address(storage, place), study))


def shown(value: object) -> str:
    """A value of a setting, or a score."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
