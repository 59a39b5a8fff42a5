"""Hyperband over tickets: what was lost with a worker and taken up again is one competitor."""

from __future__ import annotations

import copy

from optuna import Study
from optuna.pruners import HyperbandPruner
from optuna.trial import FrozenTrial

from workbench.studies.attempts import first_number, superseded

_NO_BRACKET = -1


class TicketHyperband(HyperbandPruner):
    """Optuna's Hyperband (Li et al., JMLR 2018), which takes a retried trial for a new one.

    It derives the bracket from the trial's number, and a lost attempt's rungs stay in the ranking
    beside those that its retry has inherited. Here a retry has the bracket of its ticket's first
    attempt, and attempts that were taken up again are in no bracket.
    """

    _superseded: frozenset[int] = frozenset()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial, by its last report, is not worth finishing."""
        self._superseded = superseded(study.get_trials(deepcopy=False))
        return super().prune(study, trial)

    def _get_bracket_id(self, study: Study, trial: FrozenTrial) -> int:
        if trial.number in self._superseded:
            return _NO_BRACKET
        number = first_number(trial)
        if number != trial.number:
            trial = copy.copy(trial)
            trial.number = number
        return super()._get_bracket_id(study, trial)
