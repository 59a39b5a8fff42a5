"""workbench studies run and worker; others are in study_results and study_trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli import study_results, study_trials
from workbench.cli.common import print_json, say
from workbench.cli.options import (
    JsonOption,
    LauncherOption,
    NprocOption,
    RecipeOption,
    SetOption,
    SlurmOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    parse_seeds,
    with_selectors,
)
from workbench.cli.study_request import (
    NameOption,
    NewVersionOption,
    ObjectiveOption,
    PrunerOption,
    SamplerOption,
    SamplerSeedOption,
    SharedSqliteOption,
    SpaceOption,
    TrialSeedsOption,
    TrialsOption,
    VariantOption,
    WorkersOption,
    make_spec,
)
from workbench.cli.study_results import StorageOption, print_trials
from workbench.errors import RequestError, WorkbenchError

if TYPE_CHECKING:
    from workbench.launching.jobs import Launcher
    from workbench.studies import StudySpec
    from workbench.studies.overview import StudyView
    from workbench.studies.supervisor import WorkerJob
    from workbench.studies.trials import StudyTrials
    from workbench.workspace import Workspace

app = typer.Typer(name="studies", no_args_is_help=True, help="Search settings with Optuna.")


@app.command(epilog="Example:  workbench studies run quickstart --trials 40 --workers 2")
def run(
    experiment: Annotated[str, typer.Argument(help="The experiment whose settings are searched.")],
    trials: TrialsOption = 40,
    workers: WorkersOption = 1,
    name: NameOption = None,
    variant: VariantOption = None,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    space: SpaceOption = None,
    objective: ObjectiveOption = None,
    sampler: SamplerOption = None,
    pruner: PrunerOption = None,
    seeds: TrialSeedsOption = None,
    sampler_seed: SamplerSeedOption = None,
    new_version: NewVersionOption = False,
    nproc: NprocOption = 1,
    launcher: LauncherOption = "local",
    slurm: SlurmOption = None,
    shared_sqlite: SharedSqliteOption = False,
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
    from workbench.launching.runs import find_launcher
    from workbench.tracking import default_uri
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
    spec = make_spec(name, experiment, variant, assignments, space or [], changes)
    how = WorkerOptions(
        place,
        tracking_uri or default_uri(place.root),
        study_results.address(storage, place),
        workers,
        nproc,
        find_launcher(launcher, slurm or []),
    )
    _check(spec, how, shared_sqlite)
    view = _supervise(_prepare(spec, how, new_version, trials), how)
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
    from workbench.runs.spec import RunSpec
    from workbench.studies.worker import work
    from workbench.tracking import default_uri
    from workbench.training.config import RunConfig
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    request = RunSpec(RunConfig(), place, tracking_uri or default_uri(place.root), nproc)
    url = study_results.address(storage, place)
    ended = work(url, study, request, find_teacher=find_with_bar, say=say)
    if json_output:
        print_json({"study": study, "ended": ended})
    else:
        typer.echo(f"No trial of {study} is left; this worker brought {ended} to an end.")


@dataclass(frozen=True)
class WorkerOptions:
    """Where a study's workers run, and where they keep things.

    Attributes:
        storage: of the study; may hold a password.
        launcher: where their processes start; None for this machine.
    """

    place: Workspace
    tracking_uri: str
    storage: str
    workers: int
    nproc: int
    launcher: Launcher | None


def _check(spec: StudySpec, how: WorkerOptions, shared_sqlite: bool) -> None:
    """Refuse what no worker could run, before there is a study.

    Raises:
        RequestError: called by torchrun or srun, SQLite for a cluster, a point of the space whose
            batch does not divide by the processes, or a launcher that this machine does not have.
    """
    from workbench.runs.execution import check_request
    from workbench.runs.spec import RunSpec
    from workbench.studies.check import corners
    from workbench.studies.space import at_point
    from workbench.tracking.store import SQLITE
    from workbench.training.world import current_world

    if current_world() is not None:
        raise RequestError(
            "`studies run` starts workers of its own; under torchrun or srun use `studies worker`."
        )
    if how.launcher is None and shared_sqlite:
        raise RequestError("--shared-sqlite needs --launcher slurm.")
    stores = {"--storage": how.storage, "--tracking-uri": how.tracking_uri}
    in_files = [option for option, url in stores.items() if url.startswith(SQLITE)]
    if how.launcher is not None and in_files and not shared_sqlite:
        raise RequestError(
            f"Workers on a cluster need databases that every node reaches: name one by "
            f"{' and '.join(in_files)}, such as postgresql://USER@HOST/DATABASE. SQLite takes a "
            "file system that all nodes share and whose locks hold; where that is so, add "
            "--shared-sqlite."
        )
    for config in (spec.base, *(at_point(spec.base, point) for point in corners(spec.space))):
        check_request(config, how.nproc)
        if how.launcher is not None:
            how.launcher.check(RunSpec(config, how.place, how.tracking_uri, how.nproc))


def _prepare(spec: StudySpec, how: WorkerOptions, new_version: bool, trials: int) -> StudyTrials:
    """The study with its budget, and what all workers need built once, before they start."""
    from workbench.cli.building import find_with_bar
    from workbench.runs.execution import check_sources, prepare_run
    from workbench.studies.overview import study_view
    from workbench.studies.storage import StudyStorage
    from workbench.studies.study import create_or_continue
    from workbench.studies.trials import StudyTrials

    check_sources([spec.base], how.place)  # before there is a study that searches with them
    opened = StudyStorage(how.storage)
    spec = create_or_continue(opened, spec, new_version=new_version)
    find_with_bar(spec.base.teacher, how.place.teachers)
    prepare_run(spec.base, how.place)
    known = StudyTrials(opened, spec)
    added, ended = known.extend(trials), study_view(known).ended
    if ended or not added:
        say(f"Study {spec.name} continues: {ended} trials have ended, {added} are added.")
    return known


def _supervise(trials: StudyTrials, how: WorkerOptions) -> StudyView:
    """Start the workers and follow them to the end; the study as it stands then."""
    from workbench.cli.study_live import StudyDisplay
    from workbench.launching.jobs import LocalLauncher
    from workbench.runs.signals import stop_on_signals
    from workbench.studies.overview import study_view
    from workbench.studies.parent import StudyRun
    from workbench.studies.supervisor import supervise, worker_jobs
    from workbench.tracking import default_artifact_root

    jobs = worker_jobs(trials, how.place, how.tracking_uri, how.nproc, how.workers)
    parent = StudyRun(trials, how.tracking_uri, default_artifact_root(how.place.root))
    parent.begin()
    display = StudyDisplay(trials)
    for job in jobs:
        display.say(f"worker {job.index}: log in {job.log}")
    launcher = how.launcher or LocalLauncher(max(1, len(jobs)), display.say)
    try:
        with stop_on_signals(hangup=how.launcher is None) as stop:
            codes = supervise(jobs, launcher, stop, display.look, display.say)
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


study_results.register(app)
study_trials.register(app)
