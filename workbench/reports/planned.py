"""Which registered plan runs are of: their settings tell, whatever their names and dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from workbench.errors import RequestError
from workbench.registry.rows import PLAN_KIND, as_options, changes_by_hash
from workbench.reports.groups import Planned, shortened
from workbench.runs.state import RunState, state_of
from workbench.tracking import CURVE_TAG, KIND, RunRow


def find_plans(rows: Sequence[RunRow]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The plans among tracked runs of any experiments, and which of them cannot be read."""
    planned: dict[str, tuple[str, ...]] = {}
    notes = []
    for name in dict.fromkeys(row.experiment for row in rows if row.tags.get(KIND) == PLAN_KIND):
        try:
            planned |= changes_by_hash([row for row in rows if row.experiment == name])
        except RequestError as error:
            notes.append(f"{error} The runs of {name} are not told apart by their plans.")
    return planned, notes


def main_runs(rows: Sequence[RunRow], planned: Planned) -> tuple[list[RunRow], list[str]]:
    """Runs without those of changed plans, and a note of what was left out.

    A short trial of an experiment (``--set training.kimg=...``) would bound what all are compared
    at. Where no run of the plan without changes is finished, all stay.
    """
    changes = [planned.get(row.tags.get("variant_hash", "")) for row in rows]
    own = [row for row, change in zip(rows, changes, strict=True) if change == ()]
    if not any(CURVE_TAG in row.tags and state_of(row) is RunState.FINISHED for row in own):
        return list(rows), []
    left = Counter(as_options(change) for change in changes if change)
    kept = [row for row, change in zip(rows, changes, strict=True) if not change]
    told = shortened([f"{count} with {options}" for options, count in left.most_common()])
    note = f"Runs of changed plans are left out: {told}. `workbench compare --all` shows them too."
    return kept, [note] if left else []
