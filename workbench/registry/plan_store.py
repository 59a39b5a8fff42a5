"""Plans in the tracking store: a run of its own in the experiment, beside the runs it announces.

The workspace keeps a copy and delivers it like a run's journal, so that a store out of reach delays
a plan but loses none, and the daily `workbench run` asks nobody when nothing is new.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import RequestError, WorkbenchError, unknown_name
from workbench.registry.plan import Plan, differences, read_plan
from workbench.registry.rows import PLAN_KIND, PlanRow, plan_rows
from workbench.tracking import (
    KIND,
    DeliverySettings,
    MlflowTracker,
    RunIdentity,
    RunRecord,
    RunRow,
    add_artifact,
    default_artifact_root,
    default_uri,
    describe_experiment,
    environment_tags,
    list_runs,
    load_record,
    read_artifact,
    save_record,
    tracking_dir,
)
from workbench.workspace import Workspace, exclusive, write_json

_FILE = "plan.json"
_SHOWN_DIFFERENCES = 6
_LONGEST_TAG = 7500  # MLflow keeps 8000 characters
_DELIVERY = DeliverySettings(interval=0.2, finish_timeout=30.0, system_interval=0.0)


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
    ask_store: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Registered:
    """Write the plan down, or find that it stands already; returns it as it stands.

    New variants and new words join the registered version. Other settings under a name that has
    some are refused, or with ``new_version`` begin the next version.

    Args:
        ask_store: False trusts the workspace's copy where it was delivered and says all of this;
            a store that others write to is asked all the same.
        say: hears that the store is out of reach; the plan is then delivered later.

    Raises:
        RequestError: a variant's settings changed, or the registered plan was changed by hand.
    """
    with exclusive(workspace.root / "plans" / ".lock", "Registering a plan", wait=120):
        wanted, stands = _wanted(
            plan, seeds, _Place(workspace, tracking_uri, ask_store, say), new_version
        )
        return wanted if stands else _write(wanted, workspace, tracking_uri, say)


def check_plan(
    plan: Plan,
    seeds: Sequence[int],
    workspace: Workspace,
    tracking_uri: str,
    *,
    new_version: bool = False,
    ask_store: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Registered:
    """The plan as :func:`register` would leave it; refuses what that refuses, and writes nothing.

    Raises:
        RequestError: as :func:`register`.
    """
    place = _Place(workspace, tracking_uri, ask_store, say)
    return _wanted(plan, seeds, place, new_version)[0]


@dataclass(frozen=True)
class _Place:
    """Where plans are looked up; see :func:`register`."""

    workspace: Workspace
    tracking_uri: str
    ask_store: bool
    say: Callable[[str], None]


def _wanted(
    plan: Plan, seeds: Sequence[int], place: _Place, new_version: bool
) -> tuple[Registered, bool]:
    """The plan as it is to stand, and whether it stands so already."""
    mine = _local(place.workspace, plan.experiment, plan.key)
    own_store = place.tracking_uri == default_uri(place.workspace.root)
    trusted = own_store and not place.ask_store and mine is not None and mine.run_id is not None
    if trusted and mine is not None and _says_all(mine, plan, seeds):
        return mine, True
    theirs = _stored(place.tracking_uri, plan, place.say)
    current = _both(mine, theirs)
    if current is None:
        wanted = Registered(plan, tuple(seeds))
    else:
        merged = _merged(current.plan, plan, new_version)
        wanted = Registered(merged, tuple(sorted({*current.seeds, *seeds})), current.run_id)
        if merged.version > current.plan.version:
            wanted = replace(wanted, seeds=tuple(seeds), run_id=None)
    _tags(wanted)  # refuses a plan that is too large
    return wanted, wanted == mine == theirs


def plan_folders(workspace: Workspace) -> list[Path]:
    """Where the workspace keeps its copies of plans, each with a journal of its own."""
    return sorted(file.parent for file in (workspace.root / "plans").glob(f"*/*/{_FILE}"))


def load_plan(tracking_uri: str, experiment: str, key: str = "plan") -> Plan:
    """The newest version of a registered plan, with its configurations.

    Raises:
        RequestError: nothing registered under that name, or changed by hand.
        WorkbenchError: the store does not answer.
    """
    return _read(tracking_uri, _find(tracking_uri, experiment, key))


def attach_to_plan(
    tracking_uri: str, experiment: str, path: Path, folder: str = "", key: str = "plan"
) -> None:
    """Put a file among the artifacts of a registered plan.

    Raises:
        RequestError: nothing registered under that name.
        WorkbenchError: the store does not answer.
    """
    add_artifact(tracking_uri, _find(tracking_uri, experiment, key).run_id, path, folder)


def _find(tracking_uri: str, experiment: str, key: str) -> PlanRow:
    rows = {row.key: row for row in plan_rows(_plan_runs(tracking_uri, experiment))}
    if not rows:
        raise RequestError(
            f"{experiment} is not registered in this store: `workbench experiments register "
            f"{experiment}` or `workbench run {experiment}` does it."
        )
    if key not in rows:
        raise unknown_name("plan", key, rows)
    return rows[key]


def _plan_runs(tracking_uri: str, experiment: str) -> list[RunRow]:
    where = f"tags.{KIND} = '{PLAN_KIND}' AND tags.experiment = '{experiment}'"
    return list_runs(tracking_uri, limit=1000, where=where)


def _both(mine: Registered | None, theirs: Registered | None) -> Registered | None:
    """The newer of two copies; of one version, what both hold together.

    Raises:
        RequestError: they give one name different settings.
    """
    if mine is None or theirs is None:
        return mine or theirs
    if mine.plan.version != theirs.plan.version:
        return max(mine, theirs, key=lambda found: found.plan.version)
    seeds = tuple(sorted({*mine.seeds, *theirs.seeds}))
    return Registered(_merged(theirs.plan, mine.plan, False), seeds, theirs.run_id)


def _says_all(found: Registered, plan: Plan, seeds: Sequence[int]) -> bool:
    same = found.plan.content_hash == plan.content_hash
    return same and set(seeds) <= set(found.seeds)


def _merged(old: Plan, new: Plan, new_version: bool) -> Plan:
    """The plan that both together are.

    Raises:
        RequestError: a variant would change under its name.
    """
    common = [name for name in new.variants if name in old.variants]
    odd = [name for name in common if old.hashes[name] != new.hashes[name]]
    if not odd:
        variants = {**old.variants, **new.variants}
        return new.model_copy(update={"version": old.version, "variants": variants})
    if new_version:
        return new.model_copy(update={"version": old.version + 1})
    lines = [line for line in differences(old, new) if line.partition(":")[0] in odd]
    shown = "; ".join(lines[:_SHOWN_DIFFERENCES])
    more = len(lines) - _SHOWN_DIFFERENCES
    raise RequestError(
        f"{new.experiment} is registered as version {old.version} with other settings under the "
        f"same name: {shown}{f'; and {more} more' if more > 0 else ''}. Give the variant another "
        "name, or continue with --new-version (the old runs stay, and are told apart)."
    )


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


def _stored(tracking_uri: str, plan: Plan, say: Callable[[str], None]) -> Registered | None:
    try:
        for row in plan_rows(_plan_runs(tracking_uri, plan.experiment)):
            if row.key == plan.key:
                return Registered(_read(tracking_uri, row), row.seeds, row.run_id)
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
    identity = RunIdentity(plan.experiment, plan.title, {}, _tags(wanted), description(plan))
    if load_record(folder) is None:
        # The same key in every workspace: whoever delivers second finds the first one's run.
        record = RunRecord.new(identity, tracking_uri, root, time.time_ns() // 1_000_000)
        mark = f"{PLAN_KIND}/{plan.experiment}/{plan.key}/v{plan.version}"
        tracking_dir(folder).mkdir(parents=True, exist_ok=True)
        save_record(folder, replace(record, run_key=mark, run_id=wanted.run_id))
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


def _tags(wanted: Registered) -> dict[str, str]:
    """What the store's table tells of a plan.

    Raises:
        RequestError: more than a tag holds, which MLflow would cut without a word.
    """
    plan = wanted.plan
    tags = {
        KIND: PLAN_KIND,
        "experiment": plan.experiment,
        "plan.key": plan.key,
        "plan.version": str(plan.version),
        "plan.changes": json.dumps(plan.changes),
        "plan.seeds": json.dumps(wanted.seeds),
        "plan.question": plan.question,
        "plan.hypothesis": plan.hypothesis,
        "plan.hashes": json.dumps(plan.hashes),
        "plan.hash": plan.content_hash,
        **environment_tags(),
    }
    for name, text in tags.items():
        if len(text) > _LONGEST_TAG:
            raise RequestError(
                f"The plan of {plan.experiment} is too large: its {name} has {len(text)} "
                f"characters, of at most {_LONGEST_TAG}. Divide it into several experiments."
            )
    return tags


def description(plan: Plan) -> str:
    """The plan in Markdown: question, hypothesis, and what its variants differ in."""
    flat = {name: config.flat() for name, config in plan.variants.items()}
    keys = sorted({key for values in flat.values() for key in values})
    own = [key for key in keys if len({values.get(key) for values in flat.values()}) > 1]
    own = [key for key in own if key != "variant"]
    head = " | ".join(["variant", *own])
    lines = [
        f"**{plan.question}**\n\nExpected: {plan.hypothesis}\n",
        f"| {head} |",
        f"|{'---|' * (1 + len(own))}",
    ]
    for name, values in flat.items():
        lines.append(f"| {' | '.join([name, *(values.get(key, '-') for key in own)])} |")
    if plan.changes:
        lines.append(f"\nChanged for all: {', '.join(plan.changes)}")
    return "\n".join(lines)
