"""workbench studies run and worker; the commands that look at a study are in study_results."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import study_results
from workbench.cli.common import print_json, say
from workbench.cli.options import (
    EXECUTION,
    JsonOption,
    NprocOption,
    RecipeOption,
    SetOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    parse_seeds,
    with_selectors,
)
from workbench.cli.study_request import (
    SEARCH,
    ObjectiveOption,
    PrunerOption,
    SamplerOption,
    SpaceOption,
    StudyRequest,
    TrialSeedsOption,
    make_spec,
)
from workbench.cli.study_results import StorageOption, print_trials
from workbench.errors import RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.studies import StudySpec
    from workbench.studies.overview import StudyView
    from workbench.studies.parent import StudyRun
    from workbench.studies.supervisor import WorkerJob
    from workbench.studies.trials import StudyTrials
    from workbench.workspace import Workspace

app = typer.Typer(name="studies", no_args_is_help=True, help="Search settings with Optuna.")

LOOK_SECONDS = 2.0
"""Between two looks at all trials, which would else cost the database more than the workers do."""


@app.command(epilog="Example:  workbench studies run quickstart --trials 40 --workers 2")
def run(
    experiment: Annotated[str, typer.Argument(help="The experiment whose settings are searched.")],
    trials: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of trials of the whole study; those it has count. A crash of its database "
            "may add one for each worker.",
        ),
    ] = 40,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            help="Workers here; others may join from elsewhere.",
            rich_help_panel=EXECUTION,
        ),
    ] = 1,
    name: Annotated[
        str | None, typer.Option(help="Name of the study.", show_default="the experiment's")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Variant that the trials start from.",
            show_default="the first",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    space: SpaceOption = None,
    objective: ObjectiveOption = None,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    seeds: TrialSeedsOption = None,
    sampler_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of Optuna's sampler.", rich_help_panel=SEARCH)
    ] = None,
    new_version: Annotated[
        bool,
        typer.Option(
            "--new-version",
            help="Begin a new study beside the one of this name.",
            rich_help_panel=SEARCH,
        ),
    ] = False,
    nproc: NprocOption = 1,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Search for the best settings; each trial is a tracked run. The same command continues.

    What is searched: the table "space" of the experiment's file, or what --space says in its place,
    quoted, as KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=LOW..HIGH:STEP or KEY=A|B|C. A range of a
    setting that takes whole numbers alone is of those. A setting that matters only where earlier
    ones have certain values says so: "method.sid_alpha=0.8..1.4 if method.name=sid|sid2a", and
    further conditions follow as "... and KEY=A|B".
    """
    from workbench.tracking import default_uri
    from workbench.training.world import current_world
    from workbench.workspace import open_workspace

    changes = {
        "objectives": tuple(objective) if objective else None,
        "sampler": sampler,
        "pruner": pruner,
        "seeds": parse_seeds(seeds) if seeds is not None else None,
        "sampler_seed": sampler_seed,
    }
    place = open_workspace(workspace)
    assignments = with_selectors(set_, teacher, recipe)
    asked = StudyRequest(name or experiment, experiment, variant, assignments, space or [], changes)
    spec = make_spec(asked)
    if current_world() is not None:
        raise RequestError(
            "`studies run` starts workers of its own; under torchrun or srun use `studies worker`."
        )
    _check_processes(spec, nproc)
    opened = _prepare(spec, storage, place, new_version, trials)
    uri = tracking_uri or default_uri(place.root)
    jobs = _jobs(opened, place, uri, workers, nproc)
    view = _supervise(opened, jobs, _parent(opened, uri, place))
    if json_output:
        print_json(view.as_dict())
    else:
        print_trials(view, view.best)
    if not view.best:
        reasons = [trial.error for trial in view.failed if trial.error]
        last = f" The last one failed: {reasons[-1]}" if reasons else ""
        raise WorkbenchError(f"No trial is complete.{last}")


@app.command(epilog="Example:  workbench studies worker quickstart --storage postgresql://host/db")
def worker(
    study: Annotated[str, typer.Argument(help="A study that `studies run` has begun.")],
    nproc: NprocOption = 1,
    storage: StorageOption = None,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Work on a study from this machine, until no trial is left."""
    from workbench.cli.building import find_with_bar
    from workbench.runs.execution import RunRequest
    from workbench.studies.worker import work
    from workbench.tracking import default_uri
    from workbench.training.config import RunConfig
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    request = RunRequest(
        RunConfig(),
        place,
        tracking_uri or default_uri(place.root),
        nproc,
        find_teacher=find_with_bar,
        say=say,
    )
    ended = work(study_results.address(storage, place), study, request, say)
    if json_output:
        print_json({"study": study, "ended": ended})
    else:
        typer.echo(f"No trial of {study} is left; this worker brought {ended} to an end.")


def _check_processes(spec: StudySpec, nproc: int) -> None:
    """Refuse a space whose extremes no run could share among its processes."""
    from workbench.runs.execution import check_request
    from workbench.studies.check import corners
    from workbench.studies.space import at_point

    check_request(spec.base, nproc)
    for point in corners(spec.space):
        check_request(at_point(spec.base, point), nproc)


def _prepare(
    spec: StudySpec, storage: str | None, place: Workspace, new_version: bool, trials: int
) -> StudyTrials:
    """The study with its budget, and what all workers need built once, before they start."""
    from workbench.cli.building import find_with_bar
    from workbench.runs.execution import check_sources, prepare_run
    from workbench.studies.overview import study_view
    from workbench.studies.storage import StudyStorage
    from workbench.studies.study import create_or_continue
    from workbench.studies.trials import StudyTrials

    check_sources([spec.base], place)  # before there is a study that searches with them
    opened = StudyStorage(study_results.address(storage, place))
    spec = create_or_continue(opened, spec, new_version=new_version)
    find_with_bar(spec.base.teacher, place.teachers)
    prepare_run(spec.base, place)
    known = StudyTrials(opened, spec)
    added, ended = known.extend(trials), study_view(known).ended
    if ended or not added:
        say(f"Study {spec.name} continues: {ended} trials have ended, {added} are added.")
    return known


def _jobs(
    trials: StudyTrials, place: Workspace, uri: str, workers: int, nproc: int
) -> list[WorkerJob]:
    from workbench.studies.overview import study_view
    from workbench.studies.study import exact_name
    from workbench.studies.supervisor import WorkerJob

    open_ = study_view(trials)
    # No more of them than trials that are left: each takes seconds to begin.
    count = min(workers, open_.total - open_.ended)
    return [
        WorkerJob(
            trials.spec.base,
            place,
            uri,
            nproc,
            study=exact_name(trials.spec),
            storage=trials.storage.url,
            index=index,
        )
        for index in range(1, count + 1)
    ]


def _supervise(trials: StudyTrials, jobs: list[WorkerJob], parent: StudyRun) -> StudyView:
    """Start the workers and follow them to the end; the study as it stands then."""
    from workbench.cli.study_live import StudyDisplay
    from workbench.launching.jobs import LocalLauncher
    from workbench.runs.signals import stop_on_signals
    from workbench.studies.overview import study_view
    from workbench.studies.supervisor import supervise

    display = StudyDisplay()
    for job in jobs:
        display.say(f"worker {job.index}: log in {job.log}")

    seen = 0.0

    def look() -> None:
        nonlocal seen
        if time.monotonic() - seen < LOOK_SECONDS:
            return
        seen = time.monotonic()
        try:
            display.show(study_view(trials))
        except Exception as error:  # a table must not end a study; workers wait for the database
            if not trials.storage.is_trouble(error):
                raise

    try:
        with stop_on_signals() as stop:
            launcher = LocalLauncher(max(1, len(jobs)))
            codes = supervise(jobs, launcher, stop, look, display.say)
    finally:
        display.stop()
        parent.end()
    view = trials.storage.patiently(lambda: study_view(trials))
    # What one worker could not do here, others may have done.
    excused = {0, RequestError.exit_code} if view.ended == view.total else {0}
    _check_codes(jobs, {index: 0 if code in excused else code for index, code in codes.items()})
    return view


def _check_codes(jobs: list[WorkerJob], codes: dict[int, int]) -> None:
    refused = RequestError.exit_code
    bad = sorted((j for j in jobs if codes[j.index]), key=lambda j: codes[j.index] != refused)
    if not bad:
        return
    code, said = codes[bad[0].index], bad[0].last_words
    if code == refused:
        raise RequestError(f"No worker is left here. {said}")
    raise WorkbenchError(f"Worker {bad[0].index} ended with code {code}: {said}")


def _parent(trials: StudyTrials, uri: str, place: Workspace) -> StudyRun:
    from workbench.studies.parent import StudyRun
    from workbench.tracking import default_artifact_root

    parent = StudyRun(trials, uri, default_artifact_root(place.root))
    parent.begin()
    return parent


study_results.register(app)
