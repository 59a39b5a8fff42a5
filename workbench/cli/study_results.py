"""workbench studies status, best, importance, plot, dashboard, enqueue and promote."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import print_json, print_table, say
from workbench.cli.options import PLACES, JsonOption, TrackingOption, WorkspaceOption
from workbench.errors import RequestError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

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
StudyArgument = Annotated[str, typer.Argument(help="A study by name: its newest version.")]


def register(app: typer.Typer) -> None:
    app.command(epilog="Example:  workbench studies status quickstart --watch")(status)
    app.command(epilog="Example:  workbench studies best quickstart --json")(best)
    app.command(epilog="Example:  workbench studies importance quickstart")(importance)
    app.command(epilog="Example:  workbench studies plot quickstart --out figures/")(plot)
    app.command(epilog="Example:  workbench studies dashboard --port 8081")(dashboard)
    app.command(epilog="Example:  workbench studies enqueue quickstart --set method.sid_alpha=1.2")(
        enqueue
    )
    app.command(epilog="Example:  workbench studies promote quickstart --trial 12 --variant tuned")(
        promote
    )


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

    trials = _open(study, storage, open_workspace(workspace, create=workspace is None))
    now = study_view(trials)
    if watch:
        display = StudyDisplay()
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

    trials = _open(study, storage, open_workspace(workspace, create=workspace is None))
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

    trials = _open(study, storage, open_workspace(workspace, create=workspace is None))
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
    trials = _open(study, storage, place)
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


def enqueue(
    study: StudyArgument,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the study's space; repeatable."
        ),
    ],
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Queue a point to try next; what it leaves open the sampler draws."""
    from workbench.studies.check import read_point
    from workbench.workspace import open_workspace

    trials = _open(study, storage, open_workspace(workspace, create=workspace is None))
    point = read_point(trials.spec.space, trials.spec.base, set_)
    number = trials.enqueue(point)
    if json_output:
        print_json({"study": trials.spec.name, "trial": number, "point": dict(point)})
    else:
        typer.echo(f"Trial {number} of {trials.spec.name} will try {', '.join(set_)}.")


def promote(
    study: StudyArgument,
    trial: Annotated[int, typer.Option(min=0, help="Number of a complete trial.")],
    variant: Annotated[str, typer.Option(help="Name of the new variant.")],
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of experiment files that the variant is written to.",
            show_default="the last one that is searched",
        ),
    ] = None,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write a trial's settings as a variant of its experiment, ready for `workbench run`."""
    from workbench.bundled import experiment_folders
    from workbench.registry import write_variant
    from workbench.studies.space import at_point
    from workbench.workspace import open_workspace

    trials = _open(study, storage, open_workspace(workspace, create=workspace is None))
    spec, chosen = trials.spec, _complete(trials, trial)
    config = at_point(spec.base, chosen.params)
    scores = spec.scores(chosen)
    values = ", ".join(f"{o.title} {scores[o.name]:.6g}" for o in spec.objectives)
    seeds = ", ".join(str(seed) for seed in spec.settings.seeds)
    told = f"study {spec.name}, trial {trial}: {values} (seeds {seeds})"
    searched = experiment_folders()
    place = folder or searched[-1]
    file = write_variant(place, spec.experiment, variant, config, told)
    if json_output:
        print_json({"file": str(file), "experiment": spec.experiment, "variant": variant})
    else:
        run = f"workbench run {spec.experiment} --variant {variant} --seed 0,1,2"
        typer.echo(f"{file}\n{_searching(place, searched)}{run}")


def _searching(place: Path, searched: Sequence[Path]) -> str:
    """What makes a command find experiment files in a folder that is not searched yet."""
    from workbench.bundled import EXPERIMENTS_VARIABLE

    if place.resolve() in [folder.resolve() for folder in searched]:
        return ""
    own = [str(folder.resolve()) for folder in (*searched[1:], place)]
    return f"{EXPERIMENTS_VARIABLE}={shlex.quote(os.pathsep.join(own))} "


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
    rows = [[key, *(_shown(trial.params.get(key, "-")) for trial in trials)] for key in keys]
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


def _open(study: str, storage: str | None, place: Workspace) -> StudyTrials:
    from workbench.studies.study import open_study
    from workbench.studies.trials import StudyTrials

    return StudyTrials(*open_study(address(storage, place), study))


def _complete(trials: StudyTrials, number: int) -> FrozenTrial:
    from workbench.studies.trials import TrialStatus, number_of, status_of

    found = {number_of(trial): trial for trial in trials.all()}
    complete = [n for n, t in found.items() if status_of(t) is TrialStatus.COMPLETE]
    if number not in complete:
        state = status_of(found[number]) if number in found else "not there"
        listed = ", ".join(map(str, complete)) or "none"
        raise RequestError(
            f"Trial {number} of {trials.spec.name} is {state}; complete are: {listed}."
        )
    return found[number]


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
