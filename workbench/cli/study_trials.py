"""workbench studies trials, enqueue, promote and rm: what is done with a study's trials."""

from __future__ import annotations

import csv
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from workbench.cli.common import confirm_deletion, duration, print_json, print_table, say
from workbench.cli.options import OUTPUT, JsonOption, TrackingOption, WorkspaceOption
from workbench.cli.study_results import StorageOption, StudyArgument, open_trials, shown
from workbench.errors import RequestError, unknown_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from workbench.studies.overview import TrialView
    from workbench.studies.spec import StudySpec
    from workbench.studies.trials import StudyTrials


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    examples: dict[str, Callable[..., None]] = {
        "trials quickstart --state complete --sort fid": trials,
        "enqueue quickstart --set method.sid_alpha=1.2": enqueue,
        "promote quickstart --trial 12 --variant tuned": promote,
        "rm quickstart": rm,
    }
    for example, command in examples.items():
        app.command(epilog=f"Example:  workbench studies {example}")(command)


def trials(
    study: StudyArgument,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="waiting|running|complete|pruned|failed|lost",
            help="Show trials in these states alone; comma-separated or repeated.",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Sort by number, state, duration, an objective (best first) or a setting.",
        ),
    ] = "number",
    limit: Annotated[int | None, typer.Option(min=1, help="Show at most so many trials.")] = None,
    format_: Annotated[
        Literal["table", "csv"],
        typer.Option("--format", help="How the trials are printed.", rich_help_panel=OUTPUT),
    ] = "table",
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """List a study's trials: their states, scores, settings, runs and durations."""
    from workbench.studies.overview import sorted_trials, trial_views
    from workbench.studies.trials import TrialStatus
    from workbench.workspace import open_workspace

    opened = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
    wanted = [part.strip() for text in state or [] for part in text.split(",")]
    for each in wanted:
        if each not in list(TrialStatus):
            raise unknown_name("state of trials", each, list(TrialStatus))
    found = [view for view in trial_views(opened) if not wanted or view.state in wanted]
    rows = sorted_trials(opened.spec, found, sort)[:limit]
    if json_output:
        print_json([asdict(row) for row in rows])
        return
    table = _table(opened.spec, rows, for_people=format_ == "table")
    if format_ == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(table)
    else:
        print_table(table[0], table[1:], f"{len(rows)} trials of {opened.spec.name}")


def _table(spec: StudySpec, rows: Sequence[TrialView], *, for_people: bool) -> list[list[str]]:
    """Column names, and a row a trial; for programs numbers are whole and durations in seconds."""

    def cell(value: object) -> str:
        missing = "-" if for_people else ""
        return missing if value is None else shown(value) if for_people else str(value)

    names = [objective.name for objective in spec.objectives]
    span = "duration" if for_people else "duration_s"
    table = [["trial", "state", *names, *spec.space, "runs", span]]
    for row in rows:
        values = [*(row.values.get(n) for n in names), *(row.params.get(k) for k in spec.space)]
        readable = for_people and row.duration is not None
        time = duration(row.duration or 0.0) if readable else row.duration
        runs = ", ".join(row.runs) or None
        table.append([str(row.number), row.state, *map(cell, [*values, runs, time])])
    return table


def rm(
    study: StudyArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Delete a study with the record of its trials. Says what goes, and asks; its runs stay.

    The study's own run in MLflow is deleted as MLflow does it: `mlflow runs restore` brings it
    back. Refused while a worker is alive.
    """
    from workbench.studies.parent import StudyRun
    from workbench.studies.study import exact_name
    from workbench.tracking import default_artifact_root, default_uri
    from workbench.training.run_folder import all_runs
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=workspace is None)
    opened = open_trials(study, storage, place)
    spec, found = opened.spec, opened.all()
    opened.check_idle()
    here = [run for run in all_runs(place) if run.path.parent.name == spec.run_experiment]
    say(
        f"{exact_name(spec.name)} in {opened.storage.shown}: {len(found)} trials. Their runs stay, "
        f"as {spec.run_experiment}/...: {len(here)} in this workspace."
    )
    confirm_deletion(yes, "this study")
    uri = tracking_uri or default_uri(place.root)
    parent = StudyRun(opened, uri, default_artifact_root(place.root))
    parent.remove()  # first: MLflow can bring it back, where the next step fails
    opened.remove()
    say(f"Deleted the study {spec.name}.")


def enqueue(
    study: StudyArgument,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the study's space and its value; repeatable.",
        ),
    ],
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    json_output: JsonOption = False,
) -> None:
    """Queue a point to try next; what it leaves open the sampler draws."""
    from workbench.studies.check import read_point
    from workbench.workspace import open_workspace

    trials = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
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

    trials = open_trials(study, storage, open_workspace(workspace, create=workspace is None))
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
