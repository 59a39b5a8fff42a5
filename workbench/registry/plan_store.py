"""Plans in the tracking store: a run of its own in the experiment, beside the runs it announces.

The workspace keeps a copy and delivers it like a run's journal, so that a store out of reach delays
a plan but loses none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.registry.plan import Plan, differences, read_plan
from workbench.registry.plan_text import description, plan_tags
from workbench.registry.rows import PLAN_KIND, PlanRow, as_options, plan_rows
from workbench.tracking import (
    KIND,
    MlflowTracker,
    RunIdentity,
    RunRecord,
    RunRow,
    UploaderSettings,
    add_artifact,
    default_artifact_root,
    describe_experiment,
    list_runs,
    load_record,
    read_artifact,
    restore_run,
    save_record,
    tracking_dir,
)
from workbench.workspace import Workspace, exclusive, write_json

_FILE = "plan.json"
_SHOWN_DIFFERENCES = 6
_DELIVERY = UploaderSettings(interval=0.2, finish_timeout=30.0, patience=2.0, system_interval=0.0)


@dataclass(frozen=True)
class Registered:
    """A plan as it stands registered, with the seeds it is to be run with."""

    plan: Plan
    seeds: tuple[int, ...]
    run_id: str | None = None


def register(
    plan: Plan,
    seeds: Sequence[int],
    workspace: Workspace,
    tracking_uri: str,
    *,
    new_version: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Registered:
    """Write the plan down, or find that it stands already; returns it as it stands.

    New variants and new words join the registered version. Other settings under a name that has
    some are refused, or with ``new_version`` begin the next version.

    Args:
        say: hears that the store is out of reach; the plan is then delivered later.

    Raises:
        RequestError: a variant's settings changed, or the registered plan was changed by hand.
    """
    with exclusive(workspace.root / "plans" / ".lock", "Registering a plan", wait=120):
        wanted, stands = _wanted(plan, seeds, workspace, tracking_uri, new_version, say)
        return wanted if stands else _write(wanted, workspace, tracking_uri, say)


def check_plan(
    plan: Plan,
    seeds: Sequence[int],
    workspace: Workspace,
    tracking_uri: str,
    *,
    new_version: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Registered:
    """The plan as :func:`register` would leave it; refuses what that refuses, and writes nothing.

    Raises:
        RequestError: as :func:`register`.
    """
    return _wanted(plan, seeds, workspace, tracking_uri, new_version, say)[0]


def _wanted(
    plan: Plan,
    seeds: Sequence[int],
    workspace: Workspace,
    tracking_uri: str,
    new_version: bool,
    say: Callable[[str], None],
) -> tuple[Registered, bool]:
    """The plan as it is to stand, and whether it stands so already."""
    mine = _local(workspace, plan.experiment, plan.key)
    known = [plan] if mine is None else [plan, mine.plan]
    theirs = _stored(tracking_uri, known, say)
    wanted = _continued([found for found in (theirs, mine) if found], plan, seeds, new_version)
    plan_tags(wanted.plan, wanted.seeds)  # refuses a plan that is too large
    return wanted, wanted == mine == theirs


def _continued(
    standing: Sequence[Registered], plan: Plan, seeds: Sequence[int], new_version: bool
) -> Registered:
    """What stands once a plan joins those that stand: the store's, the workspace's copy, or both.

    Raises:
        RequestError: a name would have two settings; with ``new_version`` the next version begins
            instead, which continues none of them.
    """
    if not standing:
        return Registered(plan, tuple(seeds))
    version = max(found.plan.version for found in standing)
    standing = [found for found in standing if found.plan.version == version]
    plans = [*(found.plan for found in standing), plan]
    hashes: dict[str, set[str]] = {}
    for one in plans:
        for name, hash_ in one.hashes.items():
            hashes.setdefault(name, set()).add(hash_)
    odd = {name for name, found in hashes.items() if len(found) > 1}
    if not odd:
        variants = {name: config for one in plans for name, config in one.variants.items()}
        joined = plan.model_copy(update={"version": version, "variants": variants})
        known = {seed for found in standing for seed in found.seeds}
        return Registered(joined, tuple(sorted({*known, *seeds})), standing[0].run_id)
    if new_version:
        return Registered(plan.model_copy(update={"version": version + 1}), tuple(seeds))
    told = (line for old, new in pairwise(plans) for line in differences(old, new))
    lines = [line for line in dict.fromkeys(told) if line.partition(":")[0] in odd]
    more = len(lines) - _SHOWN_DIFFERENCES
    raise RequestError(
        f"{plan.experiment} is registered as version {version} with other settings under the "
        f"same name: {'; '.join(lines[:_SHOWN_DIFFERENCES])}"
        f"{f'; and {more} more' if more > 0 else ''}. Give the variant another name, or continue "
        "with --new-version (the old runs stay, and are told apart)."
    )


def plan_folders(workspace: Workspace) -> list[Path]:
    """Where the workspace keeps its copies of plans, each with a journal of its own."""
    return sorted(file.parent for file in (workspace.root / "plans").glob(f"*/*/{_FILE}"))


def load_plan(tracking_uri: str, experiment: str, changes: Sequence[str] = ()) -> Plan:
    """The newest version of a registered plan, with its configurations.

    Args:
        changes: the plan's own (:class:`Plan`); by default the one without.

    Raises:
        RequestError: nothing registered under that name or with these changes, or changed by hand.
        WorkbenchError: the store does not answer.
    """
    return _read(tracking_uri, _find(tracking_uri, experiment, changes))


def attach_to_plan(
    tracking_uri: str, experiment: str, path: Path, folder: str = "", changes: Sequence[str] = ()
) -> None:
    """Put a file among the artifacts of a registered plan; ``changes`` as for :func:`load_plan`.

    Raises:
        RequestError: nothing registered under that name or with these changes.
        WorkbenchError: the store does not answer.
    """
    add_artifact(tracking_uri, _find(tracking_uri, experiment, changes).run_id, path, folder)


def _find(tracking_uri: str, experiment: str, changes: Sequence[str]) -> PlanRow:
    rows = {_shown(row.changes): row for row in plan_rows(_plan_runs(tracking_uri, experiment))}
    if not rows:
        raise RequestError(
            f"{experiment} is not registered in this store: `workbench experiments register "
            f"{experiment}` or `workbench run {experiment}` does it."
        )
    if _shown(changes) not in rows:
        raise unknown_name(f"plan of {experiment}:", _shown(changes), rows)
    return rows[_shown(changes)]


def _shown(changes: Sequence[str]) -> str:
    return as_options(changes) or "without changes"


def _plan_runs(tracking_uri: str, experiment: str) -> list[RunRow]:
    where = f"tags.{KIND} = '{PLAN_KIND}' AND tags.experiment = '{experiment}'"
    return list_runs(tracking_uri, limit=1000, where=where)


def _local(workspace: Workspace, experiment: str, key: str) -> Registered | None:
    folders = (workspace.root / "plans" / experiment).glob(f"{key}-v*/{_FILE}")
    files = {int(file.parent.name.rpartition("-v")[2]): file for file in folders}
    if not files:
        return None
    file = files[max(files)]
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        seeds = tuple(int(seed) for seed in values.pop("seeds"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"Cannot read the plan {file}: {error}.") from None
    record = load_record(file.parent)
    run_id = None if record is None else record.run_id
    return Registered(read_plan(values, str(file)), seeds, run_id)


def _stored(
    tracking_uri: str, known: Sequence[Plan], say: Callable[[str], None]
) -> Registered | None:
    """The store's plan of that key; its configurations are read only where no known plan has them.

    Args:
        known: plans of one key.
    """
    try:
        for row in plan_rows(_plan_runs(tracking_uri, known[0].experiment)):
            if row.key == known[0].key:
                same = [plan for plan in known if plan.content_hash == row.content_hash]
                found = same[0] if same else _read(tracking_uri, row)
                plan = found.model_copy(update={"version": row.version})
                return Registered(plan, row.seeds, row.run_id)
    except RequestError:
        raise
    except WorkbenchError as error:
        say(f"The plan could not be compared with the store: {error} It is delivered later.")
    return None


def _read(tracking_uri: str, row: PlanRow) -> Plan:
    try:
        values = json.loads(read_artifact(tracking_uri, row.run_id, _FILE))
        values.pop("seeds", None)
    except (ValueError, AttributeError) as error:
        raise RequestError(f"The plan of run {row.run_id} is unreadable: {error}.") from None
    return read_plan(values, f"The plan {row.title} of {row.experiment} (run {row.run_id})")


def _write(
    wanted: Registered, workspace: Workspace, tracking_uri: str, say: Callable[[str], None]
) -> Registered:
    plan = wanted.plan
    folder = workspace.root / "plans" / plan.experiment / f"{plan.key}-v{plan.version}"
    root = default_artifact_root(workspace.root)
    identity = RunIdentity(
        plan.experiment, plan.title, {}, plan_tags(plan, wanted.seeds), description(plan)
    )
    if load_record(folder) is None:
        # The same key in every workspace: whoever delivers second finds the first one's run.
        record = RunRecord.new(identity, tracking_uri, root, time.time_ns() // 1_000_000)
        mark = f"{PLAN_KIND}/{plan.experiment}/{plan.key}/v{plan.version}"
        tracking_dir(folder).mkdir(parents=True, exist_ok=True)
        save_record(folder, replace(record, run_key=mark, run_id=wanted.run_id))
    elif wanted.run_id is not None:
        with suppress(WorkbenchError):  # out of reach: delivered later; forgotten: made anew
            restore_run(tracking_uri, wanted.run_id)  # registering asks for it
    write_json(folder / _FILE, {"seeds": list(wanted.seeds), **plan.to_json()})
    tracker = MlflowTracker(folder, tracking_uri, root, identity, _DELIVERY)
    tracker.log_artifact(folder / _FILE)
    if tracker.finish("FINISHED") == 0:
        _describe(plan, folder, tracking_uri, say)
    written = load_record(folder)
    return replace(wanted, run_id=None if written is None else written.run_id)


def _describe(plan: Plan, folder: Path, tracking_uri: str, say: Callable[[str], None]) -> None:
    """The experiment's own page in MLflow says what it asks."""
    if plan.changes:
        return
    try:
        (row,) = [r for r in _plan_runs(tracking_uri, plan.experiment) if _is(r, folder)]
        describe_experiment(tracking_uri, row.experiment_id, description(plan))
    except (WorkbenchError, ValueError) as error:
        say(f"The experiment's description could not be written: {error}")


def _is(row: RunRow, folder: Path) -> bool:
    record = load_record(folder)
    return record is not None and row.run_id == record.run_id
