"""workbench experiments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.common import duration, print_error, print_json, print_table, say
from workbench.cli.options import (
    JsonOption,
    NewVersionOption,
    RecipeOption,
    SeedListOption,
    SetOption,
    TeacherOption,
    TrackingOption,
    WorkspaceOption,
    parse_seeds,
    with_selectors,
)

if TYPE_CHECKING:
    from workbench.registry.status import Cell, PlanStatus

app = typer.Typer(
    name="experiments", no_args_is_help=True, help="What can be run, and what has been."
)

NameArgument = Annotated[str, typer.Argument(help="An experiment by name.")]


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
    recipe: RecipeOption = None,
    json_output: JsonOption = False,
) -> None:
    """An experiment's question, and the settings that its variants share and differ in."""
    from workbench.registry import get_experiment, make_plan
    from workbench.registry.plan import resolve_variants

    experiment = get_experiment(name)
    plan = make_plan(experiment, with_selectors(set_, teacher, recipe))
    resolved = resolve_variants(experiment, plan.experiment, plan.changes)
    space = experiment.space_on(next(iter(resolved.values())))
    if json_output:
        print_json({**plan.to_json(), "search_space": sorted(space)})
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
    if space:
        rows = [[key, str(dimension)] for key, dimension in space.items()]
        print_table(["searched by `workbench studies run`", "in"], rows)


@app.command(epilog="Example:  workbench experiments register t_range --seed 0,1,2")
def register(
    name: NameArgument,
    seeds: SeedListOption = None,
    set_: SetOption = None,
    teacher: TeacherOption = None,
    recipe: RecipeOption = None,
    new_version: NewVersionOption = False,
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
    plan = make_plan(get_experiment(name), with_selectors(set_, teacher, recipe))
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
    """Every variant and seed of the registered plans: state, progress, score, time left."""
    from workbench.registry import plan_rows
    from workbench.registry.status import plan_status
    from workbench.tracking import default_uri, list_runs
    from workbench.workspace import open_workspace

    place = open_workspace(workspace, create=False)
    uri = tracking_uri or default_uri(place.root)
    _check_registered(name, uri)
    rows = list_runs(uri, name, limit=10_000)
    found = [plan_status(plan, rows) for plan in plan_rows(rows)]
    if json_output:
        print_json([one.as_dict() for one in found])
        return
    for one in found:
        _print_status(one)


def _check_registered(name: str, uri: str) -> None:
    """Refuse a name without a plan in the store.

    Raises:
        RequestError: says how to register it, or names the nearest that is there.
    """
    from workbench.errors import RequestError, unknown_name
    from workbench.registry import PLAN_KIND
    from workbench.tracking import KIND, list_runs

    plans = list_runs(uri, limit=10_000, where=f"tags.{KIND} = '{PLAN_KIND}'")
    registered = {plan.experiment for plan in plans}
    if name in registered:
        return
    from workbench.registry import find_experiments  # reads configurations, which bring torch

    known = {*find_experiments().experiments, *registered}
    if name not in known:
        raise unknown_name("experiment", name, known)
    raise RequestError(
        f"{name} is not registered here; `workbench experiments register {name}` does it."
    )


def _print_status(status: PlanStatus) -> None:
    """One line a run, narrow enough for 80 columns; --json has everything."""
    from workbench.metrics import title_of
    from workbench.rounding import rounded
    from workbench.runs.state import RunState

    plan, rows = status.plan, []
    shown: set[str] = set()
    for cell in status.cells:
        first = cell.variant not in shown
        shown.add(cell.variant)
        rows.append(
            [
                cell.variant if first else "",
                str(cell.seed),
                _state(cell),
                f"{cell.kimg:g}",
                "-" if cell.score is None else rounded(cell.score),
                _over_seeds(status, cell.variant) if first else "",
            ]
        )
    total = {cell.total_kimg for cell in status.cells if cell.total_kimg is not None}
    kimg = f"kimg of {max(total):g}" if len(total) == 1 else "kimg"
    title = f"{plan.experiment}, {plan.title}: {plan.question}"
    score = title_of(status.primary_metric or "score")
    columns = ["variant", "seed", "state", kimg, score, "mean ± sd (seeds)"]
    print_table(columns, rows, title)
    done = status.count(RunState.FINISHED)
    left = "" if not status.left else f", about {duration(status.left)} of work left"
    typer.echo(f"{done} of {len(status.cells)} runs are finished{left}.")


def _state(cell: Cell) -> str:
    from workbench.runs.state import RunState

    going = cell.state is RunState.RUNNING and cell.left is not None
    return f"{cell.state}, {duration(cell.left or 0)}" if going else str(cell.state)


def _over_seeds(status: PlanStatus, variant: str) -> str:
    """The final scores of a variant's finished runs."""
    from workbench.registry.status import spread
    from workbench.rounding import rounded
    from workbench.runs.state import RunState

    cells = [c for c in status.cells if c.variant == variant and c.state is RunState.FINISHED]
    scores = [cell.score for cell in cells if cell.score is not None]
    over = spread(scores)
    if over is None:
        return ""
    mean, deviation = over
    sd = "" if deviation is None else f" ± {rounded(deviation, deviation)}"
    return f"{rounded(mean, deviation)}{sd} ({len(scores)})"
