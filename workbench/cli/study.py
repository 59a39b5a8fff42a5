"""workbench study."""

from __future__ import annotations

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

app = typer.Typer(name="study", no_args_is_help=True, help="Search settings with Optuna.")


@app.command(epilog="Example:  workbench study run quickstart --trials 5 --set training.kimg=6.4")
def run(
    experiment: Annotated[str, typer.Argument(help="An experiment that declares a search space.")],
    trials: Annotated[int, typer.Option(min=1, help="How many more.")] = 10,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the base settings; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampler.")] = 0,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Search for the lowest FID; each trial is a tracked run, and the study continues by name."""
    from workbench.errors import RequestError, WorkbenchError
    from workbench.registry import get_experiment
    from workbench.runs import RunRequest
    from workbench.studies import StudySpec, run_study
    from workbench.tracking import default_uri
    from workbench.training.config import with_overrides
    from workbench.workspace import open_workspace

    chosen = get_experiment(experiment)
    if not chosen.space:
        raise RequestError(f"Experiment {experiment!r} declares no search space.")
    place = open_workspace(workspace)
    base = with_overrides(chosen.variant(), set_ or [])
    request = RunRequest(base, place, tracking_uri or default_uri(place.root))
    spec = StudySpec(experiment, base, chosen.space)
    study = run_study(
        spec, request, trials, seed, lambda n, score: say(f"trial {n}: FID {score:.3f}")
    )
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        raise WorkbenchError("No trial finished.")
    best = study.best_trial
    if json_output:
        print_json({"trials": len(done), "best": best.value, "params": best.params})
        return
    rows = [[key, str(value)] for key, value in best.params.items()]
    print_table(
        ["setting", "value"], rows, f"Best of {len(done)}: trial {best.number}, {best.value:.3f}"
    )
