"""Plans as the store's table of runs tells them: read without configurations, and without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.errors import RequestError
from workbench.tracking import KIND, RunRow

PLAN_KIND = "plan"
"""Tag ``kind`` of a plan's run."""


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


def plan_rows(rows: Sequence[RunRow]) -> list[PlanRow]:
    """The newest version of each plan among an experiment's runs; the one without changes first.

    Raises:
        RequestError: a plan's tags were changed by hand.
    """
    newest: dict[str, PlanRow] = {}
    for row in rows:
        if row.tags.get(KIND) == PLAN_KIND:
            found = _plan_row(row)
            if found.key not in newest or newest[found.key].version < found.version:
                newest[found.key] = found
    return sorted(newest.values(), key=lambda found: found.changes)


def plan_hash(
    experiment: str,
    question: str,
    hypothesis: str,
    changes: Sequence[str],
    hashes: Mapping[str, str],
) -> str:
    """Of everything in a plan but its version: equal exactly for plans that mean the same."""
    text = [experiment, question, hypothesis, list(changes), dict(hashes)]
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()[:16]


def plan_title(version: int, changes: Sequence[str]) -> str:
    """For people: the version and the changes."""
    return f"plan v{version}" + (f" with {', '.join(changes)}" if changes else "")


def _plan_row(row: RunRow) -> PlanRow:
    source = f"The registered plan of {row.experiment} (run {row.run_id})"
    try:
        tags = row.tags
        found = PlanRow(
            run_id=row.run_id,
            experiment=row.experiment,
            experiment_id=row.experiment_id,
            key=tags["plan.key"],
            version=int(tags["plan.version"]),
            changes=tuple(json.loads(tags["plan.changes"])),
            seeds=tuple(json.loads(tags["plan.seeds"])),
            question=tags["plan.question"],
            hypothesis=tags["plan.hypothesis"],
            hashes=json.loads(tags["plan.hashes"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise RequestError(f"{source} was changed by hand: {error}.") from None
    expected = plan_hash(
        row.experiment, found.question, found.hypothesis, found.changes, found.hashes
    )
    if tags.get("plan.hash") != expected:
        raise RequestError(
            f"{source} was changed by hand: its tags do not match plan.hash. Undo the change, or "
            f"delete that run and register {row.experiment} again."
        )
    return found
