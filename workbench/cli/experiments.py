"""workbench experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.common import (
    JsonOption,
    SeedsOption,
    SetOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    duration,
    parse_seeds,
    print_error,
    print_json,
    print_table,
    say,
    with_teacher,
)

if TYPE_CHECKING:
    from workbench.registry.status import PlanStatus

app = typer.Typer(
    name="experiments", no_args_is_help=True, help="What can be run, and what has been."
)

NameArgument = Annotated[str, typer.Argument(help="Experiment by name.")]


@app.command("list", epilog="Example:  workbench experiments list")
def list_(json_output: JsonOption = False) -> None:
    """Every experiment with its question and variants."""
    from workbench.registry import find_experiments

    found = find_experiments()
    if json_output:
        print_json(
            [
                {
                    "name": e.name,
                    "question": e.question,
                    "hypothesis": e.hypothesis,
                    "variants": list(e.variants),
                    "file": str(found.files[e.name]),
                }
                for e in found.experiments.values()
            ]
        )
    else:
        print_table(
            ["experiment", "question", "variants"],
            [[e.name, e.question, ", ".join(e.variants)] for e in found.experiments.values()],
        )
    for problem in found.problems:
        print_error(f"{problem.file}: {problem.message}")


@app.command(epilog="Example:  workbench experiments show t_range")
def show(
    name: NameArgument,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    json_output: JsonOption = False,
) -> None:
    """An experiment's question, and the settings that its variants share and differ in."""
    from workbench.registry import get_experiment, make_plan

    experiment = get_experiment(name)
    plan = make_plan(experiment, with_teacher(set_, teacher))
    if json_output:
        print_json({**plan.to_json(), "search_space": sorted(experiment.space)})
        return
    typer.echo(f"{plan.question}\nExpected: {plan.hypothesis}\n")
    flat = {variant: config.flat() for variant, config in plan.variants.items()}
    first = next(iter(flat.values()))
    common = [k for k in first if all(values.get(k) == first[k] for values in flat.values())]
    own = sorted({k for values in flat.values() for k in values} - {*common, "variant"})
    print_table(["setting of all", "value"], [[key, first[key]] for key in common])
    print_table(
        ["variant", *own, "hash"],
        [
            [variant, *(values.get(key, "-") for key in own), plan.hashes[variant]]
            for variant, values in flat.items()
        ],
    )
    if experiment.space:
        rows = [[key, str(dimension)] for key, dimension in experiment.space.items()]
        print_table(["searched by `workbench study run`", "in"], rows)


@app.command(epilog="Example:  workbench experiments register t_range --seeds 0,1,2")
def register(
    name: NameArgument,
    seeds: SeedsOption = None,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    new_version: Annotated[
        bool, typer.Option("--new-version", help="Changed variants begin a new version.")
    ] = False,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Write the plan into the tracking store, before or without running it."""
    from workbench.registry import get_experiment, make_plan
    from workbench.registry import register as register_plan
    from workbench.tracking import default_uri, redact
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    plan = make_plan(get_experiment(name), with_teacher(set_, teacher))
    done = register_plan(plan, parse_seeds(seeds), place, uri, new_version=new_version, say=say)
    if json_output:
        print_json({**done.plan.to_json(), "seeds": list(done.seeds), "run_id": done.run_id})
        return
    runs = len(done.plan.variants) * len(done.seeds)
    typer.echo(
        f"{name}: {done.plan.title}, {len(done.plan.variants)} variants x {len(done.seeds)} seeds "
        f"= {runs} runs, in {redact(uri)}"
    )


@app.command(epilog="Example:  workbench experiments status t_range")
def status(
    name: NameArgument,
    workspace: WorkspaceOption = None,
    tracking_uri: TrackingOption = None,
    json_output: JsonOption = False,
) -> None:
    """Every variant and seed of the registered plans: state, progress, FID, time left."""
    from workbench.errors import RequestError
    from workbench.registry.plan_store import plan_rows
    from workbench.registry.status import plan_status
    from workbench.tracking import default_uri, list_runs
    from workbench.workspace import open_workspace

    place = open_workspace(workspace)
    uri = tracking_uri or default_uri(place.root)
    rows = list_runs(uri, name, limit=10_000)
    plans = plan_rows(rows)
    if not plans:
        raise RequestError(
            f"{name} is not registered here; `workbench experiments register {name}` does it."
        )
    found = [plan_status(plan, rows) for plan in plans]
    if json_output:
        print_json([one.as_dict() for one in found])
        return
    for one in found:
        _print_status(one)


def _print_status(status: PlanStatus) -> None:
    from workbench.registry.status import spread
    from workbench.runs.state import RunState

    plan, rows = status.plan, []
    before = None
    for cell in status.cells:
        mine = [c for c in status.cells if c.variant == cell.variant]
        fids = [c.fid for c in mine if c.state is RunState.FINISHED and c.fid is not None]
        over = spread(fids) if cell.variant != before else None
        before_text = "" if cell.variant == before else cell.variant
        before = cell.variant
        rows.append(
            [
                before_text,
                str(cell.seed),
                cell.state,
                _kimg(cell.kimg, cell.total_kimg),
                _score(cell.fid),
                _score(cell.best_fid),
                _score(cell.alignment),
                "" if over is None else f"{over[0]:.3f} ± {over[1]:.3f} ({len(fids)})",
                _left(cell.left) if cell.state is not RunState.FINISHED else "",
            ]
        )
    title = f"{plan.experiment}, {plan.title}: {plan.question}"
    columns = ["variant", "seed", "state", "kimg", "FID", "best FID", "alignment"]
    print_table([*columns, "FID, mean ± sd (seeds)", "left"], rows, title)
    done = status.count(RunState.FINISHED)
    left = "" if not status.left else f", about {duration(status.left)} of work left"
    typer.echo(f"{done} of {len(status.cells)} runs are finished{left}.")


def _kimg(kimg: float, total: float | None) -> str:
    return f"{kimg:g}" if total is None else f"{kimg:g} / {total:g}"


def _score(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def _left(seconds: float | None) -> str:
    return "?" if seconds is None else duration(seconds)
