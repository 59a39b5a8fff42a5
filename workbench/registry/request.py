"""A request for runs of an experiment: its plan, the runs in their order, and what refuses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import RequestError, unknown_name
from workbench.launching.jobs import Launcher
from workbench.launching.runs import check_runs
from workbench.registry.files import get_experiment
from workbench.registry.plan import Plan, make_plan, resolve_variants
from workbench.registry.plan_store import check_plan, register
from workbench.runs.spec import RunSpec
from workbench.runs.start_variant import with_starts
from workbench.teachers.catalog import check_teacher
from workbench.training.config import RunConfig, load_config
from workbench.training.overrides import with_overrides
from workbench.training.recipes import SET, check_known
from workbench.workspace import Workspace

Say = Callable[[str], None]


@dataclass(frozen=True)
class RequestedRuns:
    """Runs that may begin.

    Attributes:
        plan: that they are of; None for a saved configuration.
        specs: all variants of a seed before the next, a variant after the one that it starts at.
        origins: variant -> setting -> where its value comes from.
        missing: what is not on this machine, in words, where nothing was downloaded to see.
    """

    plan: Plan | None
    specs: list[RunSpec]
    origins: dict[str, dict[str, str]]
    missing: list[str]


def request_runs(
    experiment: str,
    workspace: Workspace,
    tracking_uri: str,
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    changes: Sequence[str] = (),
    nproc: int = 1,
    fresh: bool = False,
    new_version: bool = False,
    launcher: Launcher | None = None,
    parallel: int | None = None,
    dry_run: bool = False,
    say: Say = lambda text: None,
) -> RequestedRuns:
    """The runs of an experiment, with their plan registered; nothing else is written.

    Args:
        experiment: its name, or the config.json that a run saved.
        variants: all unless named; what they start at joins them.
        seeds: those that the plan is registered with unless told, else 0. Seeds of a few variants
            are not the plan's, which are for all of its variants.
        changes: assignments over the experiment's file.
        new_version: changed settings under an old name begin the plan's next version.
        launcher: as for :func:`workbench.launching.runs.launch_runs`, like ``parallel``.
        dry_run: register and download nothing, but refuse what would be refused.

    Raises:
        RequestError: an unknown name, a wrong setting, runs that cannot be run here
            (:func:`check_runs`), or a registered plan that these runs contradict.
    """
    plan, chosen = None, None if seeds is None else tuple(dict.fromkeys(seeds))
    if chosen is not None and (not chosen or min(chosen) < 0 or max(chosen) >= 2**63):
        raise RequestError(f"Seeds are whole numbers from 0 to 2^63 - 1 (got {list(chosen)}).")
    if experiment.endswith(".json"):
        if variants or new_version:
            raise RequestError("--variant and --new-version need an experiment's name.")
        configs, origins = _saved(Path(experiment), changes, chosen)
    else:
        plan, names, origins = _variants(experiment, variants, changes, say)
        if chosen is None:
            # What is in the way of the store is told once, when the plan is registered.
            known = check_plan(plan, (), workspace, tracking_uri, new_version=new_version)
            chosen = known.seeds or (0,)
            if chosen != (0,):
                told = ", ".join(map(str, chosen))
                say(f"Seeds {told}, as registered; --seed takes others.")
        configs = [plan.config(name, seed) for seed in chosen for name in names]
    specs = [RunSpec(config, workspace, tracking_uri, nproc, fresh) for config in configs]
    missing = check_runs(specs, launcher, parallel, remote=not dry_run)
    if plan is not None and chosen is not None:
        settle = check_plan if dry_run else register
        whole = set(names) == set(plan.variants)
        planned = chosen if whole else ()
        settle(plan, planned, workspace, tracking_uri, new_version=new_version, say=say)
    return RequestedRuns(plan, specs, origins, missing)


def _variants(
    experiment: str, variants: Sequence[str] | None, changes: Sequence[str], say: Say
) -> tuple[Plan, list[str], dict[str, dict[str, str]]]:
    """An experiment's plan, the variants to run in their order, and their settings' origins."""
    found = get_experiment(experiment)
    plan = make_plan(found, changes, variants or None)
    for name in variants or ():
        if name not in plan.variants:
            raise unknown_name(f"variant of {experiment}", name, plan.variants)
    names = with_starts(plan.variants, variants or plan.variants)
    for change, untouched in plan.untouched.items():
        if others := [name for name in names if name in untouched]:
            say(f"{change} leaves {', '.join(others)} as it is: no setting of its method.")
    resolved = resolve_variants(found, plan.experiment, plan.changes)
    for name in names:
        check_teacher(resolved[name].config.teacher)  # first: what is no teacher has no recipe
        check_known(resolved[name])
    return plan, names, {name: resolved[name].origins for name in names}


def _saved(
    file: Path, changes: Sequence[str], seeds: Sequence[int] | None
) -> tuple[list[RunConfig], dict[str, dict[str, str]]]:
    """The configuration that a run saved, with a person's changes."""
    config = with_overrides(load_config(file), changes)
    chosen = (config.seed,) if seeds is None else seeds
    origin = dict.fromkeys(config.flat(), str(file))
    changed = [text.partition("=")[0].strip() for text in changes]
    origin |= {key: SET for key in origin for own in changed if f"{key}.".startswith(f"{own}.")}
    configs = [config.model_copy(update={"seed": seed}) for seed in chosen]
    return configs, {config.variant: origin}
