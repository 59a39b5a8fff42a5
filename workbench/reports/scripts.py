"""Every analysis script for which the store has runs, in one go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.bundled import bundled_folder, load_module
from workbench.errors import NoRunsError, RequestError, WorkbenchError, unknown_name
from workbench.plotting import Script
from workbench.reports.groups import is_distillation
from workbench.tracking import (
    CURVE_TAG,
    KIND,
    RunIdentity,
    RunRow,
    default_artifact_root,
    environment_tags,
    list_runs,
    log_files,
)
from workbench.workspace import Workspace

FIGURES = "figures"
"""The MLflow experiment that keeps the files, and the kind of its runs."""

LOG = logging.getLogger(__name__)

_ALL = 100_000


@dataclass(frozen=True)
class Task:
    """One call of a script. ``skip`` says why it is not to be made."""

    script: Script
    name: str
    arguments: tuple[str, ...] = ()
    skip: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a task: files and notes, or why there are none.

    Attributes:
        skipped: what there would have to be to draw.
        failed: what went wrong with what there is.
    """

    name: str
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class FiguresRequest:
    """``experiments``: draw only these; none draws everything. ``options`` go to every script."""

    out: Path
    experiments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def find_scripts() -> dict[str, Script]:
    """The scripts of the analysis folder by name."""
    modules = [load_module(file) for file in sorted(bundled_folder("analysis").glob("*.py"))]
    scripts = [module.SCRIPT for module in modules if hasattr(module, "SCRIPT")]
    return {script.name: script for script in scripts}


def plan_tasks(
    rows: Sequence[RunRow], workspace: Workspace, experiments: Sequence[str] = ()
) -> list[Task]:
    """What there is to draw for the runs in a store and in a workspace.

    A script of one experiment is run where that is tracked, one of any experiment for each of
    several variants; one of no experiment where it lacks nothing.

    Raises:
        RequestError: an experiment without an evaluated run.
    """
    variants: dict[str, set[str]] = {}
    for row in rows:
        if is_distillation(row) and CURVE_TAG in row.tags:
            variants.setdefault(row.experiment, set()).add(row.tags["variant"])
    for name in experiments:
        if name not in variants:
            raise unknown_name("experiment with evaluated runs", name, variants)
    wanted = list(experiments) or sorted(variants)
    several = [name for name in wanted if len(variants[name]) > 1]
    tasks: list[Task] = []
    for script in find_scripts().values():
        if script.any_experiment:
            tasks += _for_each(script, several)
        elif script.experiment is None:
            tasks += [] if experiments else [_of_no_experiment(script, workspace)]
        elif found := [name for name in (script.experiment, *script.also) if name in wanted]:
            tasks += _for_each(script, found)
        elif not experiments:
            skip = f"the store has no evaluated run of {script.experiment}"
            tasks.append(Task(script, script.name, skip=skip))
    return tasks


def _of_no_experiment(script: Script, workspace: Workspace) -> Task:
    skip = "its input is named by hand" if script.lacks is None else script.lacks(workspace)
    return Task(script, script.name, skip=skip)


def _for_each(script: Script, experiments: Sequence[str]) -> Iterator[Task]:
    for name in experiments:
        own = name == script.experiment
        file = script.name if own else f"{script.name}_{name.replace('/', '_')}"
        yield Task(script, file, ("--experiment", name))


def draw_figures(
    request: FiguresRequest,
    tracking_uri: str,
    workspace: Workspace,
    say: Callable[[Outcome], None] = lambda outcome: None,
) -> tuple[list[Outcome], str]:
    """Run the scripts, then keep all files in one MLflow run; returns its id with the outcomes.

    A script that fails does not keep the others from being drawn and kept.

    Args:
        say: hears of each outcome as it comes.

    Raises:
        RequestError: there is nothing to draw, or an unknown experiment.
        WorkbenchError: the store does not answer, or every script failed.
    """
    rows = list_runs(tracking_uri, limit=_ALL)
    places = {"workspace": str(workspace.root), "tracking-uri": tracking_uri}
    outcomes = []
    for task in plan_tasks(rows, workspace, request.experiments):
        where = [text for name in task.script.places for text in (f"--{name}", places[name])]
        given = [*task.arguments, *where, *request.options, "--csv"]
        outcomes.append(_run(task, [*given, "--out", str(request.out / task.name)]))
        say(outcomes[-1])
    files = [path for outcome in outcomes for path in outcome.files]
    if not files and any(outcome.failed for outcome in outcomes):
        raise WorkbenchError(f"Nothing was drawn: {failures(outcomes)}.")
    if not files:
        raise RequestError("Nothing could be drawn from what this store has.")
    drawn = [outcome.name for outcome in outcomes if outcome.files]
    tags = {KIND: FIGURES, "drawn": ", ".join(drawn), **environment_tags()}
    identity = RunIdentity(FIGURES, FIGURES, tags=tags)
    root = default_artifact_root(workspace.root)
    return outcomes, log_files(tracking_uri, identity, files, root)


def failures(outcomes: Sequence[Outcome]) -> str:
    """Which scripts failed, in one line; empty if none did."""
    names = [outcome.name for outcome in outcomes if outcome.failed is not None]
    return f"{len(names)} of {len(outcomes)} scripts failed ({', '.join(names)})" if names else ""


def _run(task: Task, arguments: Sequence[str]) -> Outcome:
    if task.skip is not None:
        return Outcome(task.name, skipped=task.skip)
    try:
        written = task.script.run(arguments)
    except NoRunsError as error:
        return Outcome(task.name, skipped=str(error))
    except WorkbenchError as error:
        return Outcome(task.name, failed=str(error))
    except Exception as error:
        LOG.exception("%s is broken:", task.name)
        return Outcome(task.name, failed=f"{type(error).__name__}: {error}")
    return Outcome(task.name, written.files, written.notes)
