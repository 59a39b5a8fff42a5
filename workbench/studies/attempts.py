"""A ticket's attempts, as Optuna keeps them: trials of their own, each with those before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Optuna's own names in a trial's system attributes.
_FIRST, _HISTORY = "failed_trial", "retry_history"


def first_number(trial: FrozenTrial) -> int:
    """The number under which a ticket was run first, for a trial that may be a retry."""
    return int(trial.system_attrs.get(_FIRST, trial.number))


def earlier_numbers(trial: FrozenTrial) -> list[int]:
    """The numbers of the attempts that a trial takes up; none for a first one."""
    return list(trial.system_attrs.get(_HISTORY, []))


def superseded(trials: Iterable[FrozenTrial]) -> frozenset[int]:
    """The numbers of the attempts that another one has taken up."""
    return frozenset(number for trial in trials for number in earlier_numbers(trial))
