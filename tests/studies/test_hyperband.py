"""Hyperband over tickets decides as Optuna's own does where no worker ever dies."""

from __future__ import annotations

import random
from collections.abc import Mapping

import optuna
import pytest
from optuna.pruners import HyperbandPruner
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import Trial, TrialState

from workbench.studies.hyperband import TicketHyperband
from workbench.studies.samplers import PRUNERS, Rungs

EVERY, LAST = 16, 16 * 27
STEPS = (16, 48, 144, 432)
TICKETS = 60

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def stock() -> HyperbandPruner:
    return HyperbandPruner(min_resource=EVERY, max_resource=LAST, reduction_factor=3)


def ends(pruner: HyperbandPruner, lost: Mapping[int, int]) -> dict[int, int]:
    """The step at which each ticket was pruned, 0 for none.

    Args:
        lost: tickets whose worker dies, and after which report.
    """
    values = random.Random(7)
    study = optuna.create_study(study_name="tickets", pruner=pruner)
    for _ in range(TICKETS):
        study.enqueue_trial({})
    pruned_at = {}
    for ticket in range(TICKETS):
        trial = study.ask()
        assert trial.number == ticket
        pruned_at[ticket] = 0
        for place, step in enumerate(STEPS):
            trial.report(values.random(), step)
            if not pruned_at[ticket] and trial.should_prune():
                pruned_at[ticket] = step
                study.tell(trial.number, state=TrialState.PRUNED)
                break
            if lost.get(ticket) == place:
                trial = take_up(study, trial)
    return pruned_at


def take_up(study: optuna.Study, trial: Trial) -> Trial:
    """A worker dies; its trial as the next one has it."""
    storage = study._storage
    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    again = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    again(study, study.trials[trial.number])
    last = study.trials[-1]
    storage.set_trial_state_values(last._trial_id, TrialState.RUNNING)
    return Trial(study, last._trial_id)


def test_lost_workers_change_no_decision() -> None:
    lost = {ticket: ticket % 3 for ticket in range(0, TICKETS, 2)}
    undisturbed = ends(stock(), {})
    assert len(set(undisturbed.values())) > 2  # several rungs prune
    assert ends(TicketHyperband(EVERY, LAST, 3), lost) == undisturbed
    assert ends(stock(), lost) != undisturbed  # what Optuna's own makes of retries


def test_a_retry_stays_in_the_bracket_of_its_first_attempt() -> None:
    ours, theirs = PRUNERS["hyperband"](Rungs(EVERY, LAST)), stock()
    assert isinstance(ours, TicketHyperband)
    study = optuna.create_study(study_name="brackets")
    for number in range(40):
        first = study.ask()
        first.report(1.0, EVERY)
        for pruner in (ours, theirs):
            pruner.prune(study, study.trials[first.number])
        bracket = theirs._get_bracket_id(study, study.trials[first.number])
        assert ours._get_bracket_id(study, study.trials[first.number]) == bracket
        again = take_up(study, take_up(study, first))
        frozen = study.trials[again.number]
        assert (frozen.number, frozen.system_attrs["failed_trial"]) == (3 * number + 2, 3 * number)
        assert ours._get_bracket_id(study, frozen) == bracket
