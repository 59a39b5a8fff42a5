"""Plans as the store's table of runs tells them: read without configurations, and without torch."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.errors import RequestError
from workbench.hashing import fingerprint
from workbench.tracking import KIND, RunRow

PLAN_KIND = "plan"
"""Tag ``kind`` of a plan's run."""
PLAN_TAG = "plan"
"""Tag of all that the store's table tells of a plan, as JSON."""

_OPTIONS = ("teacher", "recipe")


@dataclass(frozen=True)
class PlanRow:
    """A registered plan as the store's table of runs tells it, without its configurations."""

    run_id: str
    experiment: str
    experiment_id: str
    key: str
    version: int
    changes: tuple[str, ...]
    seeds: tuple[int, ...]
    question: str
    hypothesis: str
    hashes: Mapping[str, str]

    @property
    def title(self) -> str:
        return plan_title(self.version, self.changes)

    @property
    def content_hash(self) -> str:
        """Of everything but version and seeds, as of :class:`~workbench.registry.plan.Plan`."""
        return plan_hash(self.experiment, self.question, self.hypothesis, self.changes, self.hashes)


def plan_rows(rows: Sequence[RunRow]) -> list[PlanRow]:
    """The newest version of each plan among an experiment's runs; the one without changes first.

    Raises:
        RequestError: a plan's tag was changed by hand.
    """
    newest: dict[str, PlanRow] = {}
    for found in sorted(_all_plans(rows), key=lambda found: found.version):
        newest[found.key] = found
    return sorted(newest.values(), key=lambda found: found.changes)


def changes_by_hash(rows: Sequence[RunRow]) -> dict[str, tuple[str, ...]]:
    """What an experiment's plans change: a variant's fingerprint -> its plan's changes.

    Of a plan with changes all versions are in it, of the one without (value ``()``) the newest,
    which comes first where plans share settings.

    Raises:
        RequestError: a plan's tag was changed by hand.
    """
    found: dict[str, tuple[str, ...]] = {}
    for plan in (*plan_rows(rows), *(plan for plan in _all_plans(rows) if plan.changes)):
        for hash_ in plan.hashes.values():
            found.setdefault(hash_, plan.changes)
    return found


def _all_plans(rows: Sequence[RunRow]) -> list[PlanRow]:
    return [_plan_row(row) for row in rows if row.tags.get(KIND) == PLAN_KIND]


def plan_hash(
    experiment: str,
    question: str,
    hypothesis: str,
    changes: Sequence[str],
    hashes: Mapping[str, str],
) -> str:
    """Of everything in a plan but its version: equal exactly for plans that mean the same."""
    text = [experiment, question, hypothesis, list(changes), dict(hashes)]
    return fingerprint(text)


def read_changes(assignments: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """A person's assignments: the other name they file an experiment under, and a plan's changes.

    Raises:
        RequestError: a seed or a variant's name among them.
    """
    last = {text.partition("=")[0].strip(): text for text in assignments}
    for key in ("seed", "variant"):
        if key in last:
            raise RequestError(
                f"--set {last[key]} cannot change an experiment: its seeds come from --seed, its "
                "variants' names from its file."
            )
    name = last.pop("experiment", "").partition("=")[2].strip() or None
    return name, tuple(last[key] for key in sorted(last))


def plan_key(changes: Sequence[str]) -> str:
    """Of a plan's changes: the plans of one key are versions of each other."""
    if not changes:
        return "plan"
    return f"plan-{fingerprint(changes, digits=8)}"


def as_options(changes: Sequence[str]) -> str:
    """Changes as they are given on a command line: ``--teacher NAME --set KEY=VALUE``."""
    told = []
    for change in changes:
        key, _, value = (part.strip() for part in change.partition("="))
        is_option = key in _OPTIONS
        told.append(
            f"--{key} {shlex.quote(value)}" if is_option else f"--set {shlex.quote(change)}"
        )
    return " ".join(told)


def plan_title(version: int, changes: Sequence[str]) -> str:
    """For people: the version and the changes."""
    return f"plan v{version}" + (f" with {', '.join(changes)}" if changes else "")


def _plan_row(row: RunRow) -> PlanRow:
    source = f"The registered plan of {row.experiment} (run {row.run_id})"
    try:
        told = _told(row.tags)
        found = PlanRow(
            run_id=row.run_id,
            experiment=row.experiment,
            experiment_id=row.experiment_id,
            key=told["key"],
            version=int(told["version"]),
            changes=tuple(told["changes"]),
            seeds=tuple(told["seeds"]),
            question=told["question"],
            hypothesis=told["hypothesis"],
            hashes=dict(told["hashes"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"{source} was changed by hand: {error}.") from None
    if told.get("hash") != found.content_hash:
        raise RequestError(
            f"{source} was changed by hand: its tags do not match its hash. Undo the change, or "
            f"delete that run and register {row.experiment} again."
        )
    return found


def _told(tags: Mapping[str, str]) -> dict[str, Any]:
    """What the tag says; of a plan that was registered before there was one, what several say."""
    if PLAN_TAG in tags:
        told: dict[str, Any] = json.loads(tags[PLAN_TAG])
        return told
    own = {key: text for key, text in tags.items() if key.startswith("plan.")}
    parts = {key.removeprefix("plan."): text for key, text in own.items()}
    return parts | {name: json.loads(parts[name]) for name in ("changes", "seeds", "hashes")}
