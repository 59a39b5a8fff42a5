"""A study's trials as a queue of tickets that any number of machines draw from.

The study's budget is the number of its tickets, created before anyone runs one, so that neither
many workers nor one that dies can make the study longer or shorter. A worker claims a ticket, never
creates one. A ticket whose worker fell silent, by the pace that this worker itself had announced,
is failed and queued once more under a new number, with its values, reports and the number under
which it was first run.
"""

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from workbench.errors import InterruptedRunError
from workbench.studies.attempts import earlier_numbers, first_number, superseded
from workbench.studies.heartbeat import silences
from workbench.studies.samplers import calm_optuna
from workbench.studies.space import Point
from workbench.studies.spec import StudySettings, StudySpec
from workbench.studies.storage import StudyStorage
from workbench.studies.study import load_study
from workbench.training.events import StopFlag

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ERROR = "error"
"""User attribute of a trial that failed by itself; a trial lost with its worker has none."""

WORKER = "worker"
"""User attribute: host and process that run a trial, or ran it."""

REFUSAL = "refusal"
"""User attribute of a trial that a worker could not run where it is: who, and why; else None."""

_FIXED = "fixed_params"  # Optuna's own name in a trial's system attributes
_PACE = "workbench:pace"
_BY = "workbench:by"  # whose claim a running trial is


class TicketState(StrEnum):
    """Where a ticket stands. LOST: its workers died, more often than it is retried."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    LOST = "lost"


OPEN_STATES = frozenset({TicketState.WAITING, TicketState.RUNNING})


@dataclass(frozen=True)
class Ticket:
    """One trial that the study was to have, with all attempts at it.

    Attributes:
        number: of the first attempt; its runs and the person know it by this one.
        trial: Optuna's record of the last attempt.
        attempts: how many workers took it up and did not give it back.
    """

    number: int
    trial: FrozenTrial
    attempts: int
    state: TicketState


def tickets(trials: Iterable[FrozenTrial]) -> list[Ticket]:
    """A study's trials, with the attempts at one ticket taken together; by number."""
    last: dict[int, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        last[first_number(trial)] = trial
    return [
        Ticket(number, trial, len(earlier_numbers(trial)) + 1, _state(trial))
        for number, trial in sorted(last.items())
    ]


def grace_of(trial: FrozenTrial, settings: StudySettings) -> int:
    """Seconds of silence after which the worker of a running trial is dead.

    They are the worker's own, which began with the settings of its time. One that announced none
    is of an earlier version, and gets the longer of the study's and the usual time.
    """
    pace: Mapping[str, Any] = trial.system_attrs.get(_PACE, {})
    usual = max(settings.grace_s, StudySettings().grace_s)
    return int(pace.get("grace_s", usual))


def _state(trial: FrozenTrial) -> TicketState:
    if trial.state.name == "FAIL":
        return TicketState.FAILED if ERROR in trial.user_attrs else TicketState.LOST
    return TicketState[trial.state.name]


def _is_held(trial: FrozenTrial, token: str) -> bool:
    return trial.state.name == "RUNNING" and trial.system_attrs.get(_BY) == token


@dataclass(frozen=True)
class Claim:
    """A ticket that this process holds.

    Attributes:
        token: names the claim in the database, which another one replaces.
    """

    trial_id: int
    number: int
    ticket: int
    token: str

    def holds(self, trial: FrozenTrial) -> bool:
        """Whether the trial is still run under this claim."""
        return _is_held(trial, self.token)


class TrialQueue:
    """The queue of one study. Every call may be repeated after a failure of the database."""

    def __init__(self, storage: StudyStorage, spec: StudySpec) -> None:
        self.storage, self.spec = storage, spec
        self.study = load_study(storage, spec)
        self._study_id = storage.rdb.get_study_id_from_name(spec.name)
        self._lock = f"queue/{spec.name}"
        self._since = time.monotonic()

    def tickets(self) -> list[Ticket]:
        """Every ticket as it stands now."""
        return tickets(self.study.get_trials(deepcopy=False))

    def counts(self) -> Counter[TicketState]:
        """How many tickets are in each state."""
        return Counter(ticket.state for ticket in self.tickets())

    def fill(self, total: int) -> int:
        """Add waiting tickets until the study has ``total``; returns how many were added."""
        with self.storage.lock(self._lock):
            missing = max(0, total - len(self.tickets()))
            for _ in range(missing):
                self.study.enqueue_trial({})
        return missing

    def enqueue(self, point: Point) -> int:
        """Queue a point: an open ticket takes it, else there is one more; returns its number."""
        with self.storage.lock(self._lock):
            for trial in self._waiting():
                if not trial.params and not trial.system_attrs.get(_FIXED):
                    self.storage.rdb.set_trial_system_attr(
                        self._id(trial.number), _FIXED, dict(point)
                    )
                    return first_number(trial)
            self.study.enqueue_trial(dict(point))
            return self.study.get_trials(deepcopy=False)[-1].number

    def claim(self, avoid: Collection[int] = (), token: str | None = None) -> Claim | None:
        """The next ticket, None when none is waiting; its pace is this process's settings'.

        Those taken up again come first, those that a worker could not run last.

        Args:
            avoid: tickets that are left to others.
            token: the same in a repeated call, which then finds what the first one had claimed
                before its answer was lost.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        rdb, token = self.storage.rdb, token or uuid.uuid4().hex
        # The lock is what makes claiming atomic on SQLite, which does not know FOR UPDATE.
        with self.storage.lock(self._lock):
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if _is_held(trial, token):
                    return self._claim(trial, token)
            for trial in self._waiting():
                if first_number(trial) in avoid:
                    continue
                trial_id = self._id(trial.number)
                try:
                    # First the pace and a sign of life: whoever finds it running judges by them.
                    rdb.set_trial_system_attr(trial_id, _PACE, self._pace())
                    rdb.set_trial_system_attr(trial_id, _BY, token)
                    rdb.record_heartbeat(trial_id)
                    if rdb.set_trial_state_values(trial_id, TrialState.RUNNING):
                        return self._claim(trial, token)
                except UpdateFinishedTrialError:
                    continue
        return None

    def give_back(self, claim: Claim, refusal: Mapping[str, str] | None = None) -> None:
        """Let the ticket wait again: nothing was wrong with it, and it does not count as a try.

        Args:
            refusal: who could not run it, and why; it then waits behind all others.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        with self.storage.lock(self._lock):
            if not claim.holds(self.storage.rdb.get_trial(claim.trial_id)):
                return  # given back by a call whose answer was lost; a peer may have it by now
            try:
                if refusal is not None:
                    self.storage.rdb.set_trial_user_attr(claim.trial_id, REFUSAL, dict(refusal))
                self.storage.rdb.set_trial_state_values(claim.trial_id, TrialState.WAITING)
            except UpdateFinishedTrialError:
                return  # a peer thought us dead and has queued it again

    def recover(self) -> None:
        """Queue again what dead workers left behind.

        After a silence of the database everyone gets the time to show that they live.
        """
        import optuna

        with self.storage.lock(self._lock), calm_optuna():
            self._fail_silent()
            # Apart from failing them, so that a worker that dies in between loses nothing.
            retry = optuna.storages.RetryHeartbeatStaleTrialCallback(
                self.spec.settings.retries, inherit_intermediate_values=True
            )
            for trial in self._left_behind():
                retry(self.study, copy.deepcopy(trial))

    def finish(
        self, claim: Claim, values: Sequence[float] | None, *, error: str | None = None
    ) -> bool:
        """Tell how the ticket ended: values, an error, or neither for a pruned one.

        Returns:
            False if a peer thought this worker dead and queued the ticket again: the outcome is
            dropped here, and the run that made it is recalled there.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state = TrialState.COMPLETE if values is not None else TrialState.PRUNED
        state = state if error is None else TrialState.FAIL
        trial = self.storage.rdb.get_trial(claim.trial_id)
        if claim.holds(trial):
            try:
                if error is not None:
                    self.storage.rdb.set_trial_user_attr(claim.trial_id, ERROR, error)
                self.study.tell(claim.number, values, state, skip_if_finished=True)
            except UpdateFinishedTrialError:
                pass
            trial = self.storage.rdb.get_trial(claim.trial_id)
        return trial.state is state and (error is None or ERROR in trial.user_attrs)

    def wait(self, stop: StopFlag) -> None:
        """A moment until looking again.

        Raises:
            InterruptedRunError: asked to stop.
        """
        until = time.monotonic() + max(0.5, self.spec.settings.heartbeat_s / 2)
        while time.monotonic() < until:
            if stop.requested:
                raise InterruptedRunError("Stopped while waiting for other workers' trials.")
            time.sleep(0.1)

    def _claim(self, trial: FrozenTrial, token: str) -> Claim:
        return Claim(self._id(trial.number), trial.number, first_number(trial), token)

    def _waiting(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        found = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # Begun ones first: their points were drawn long ago, and samplers wait for the outcome.
        return sorted(
            found,
            key=lambda t: (
                t.user_attrs.get(REFUSAL) is not None,
                not t.params,
                not t.system_attrs.get(_FIXED),
                t.number,
            ),
        )

    def _pace(self) -> dict[str, int]:
        settings = self.spec.settings
        return {"heartbeat_s": settings.heartbeat_s, "grace_s": settings.grace_s}

    def _fail_silent(self) -> None:
        """Fail the running trials whose workers are dead, each by its own grace."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        rdb = self.storage.rdb
        heard_s = time.monotonic() - max(self._since, self.storage.last_trouble or 0.0)
        for trial_id, silence_s in silences(rdb, self._study_id).items():
            grace_s = grace_of(rdb.get_trial(trial_id), self.spec.settings)
            if min(silence_s, heard_s) > grace_s:
                with contextlib.suppress(UpdateFinishedTrialError):
                    rdb.set_trial_state_values(trial_id, TrialState.FAIL)

    def _left_behind(self) -> list[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False)
        retried = superseded(trials)
        return [t for t in trials if _state(t) is TicketState.LOST and t.number not in retried]

    def _id(self, number: int) -> int:
        return self.storage.rdb.get_trial_id_from_study_id_trial_number(self._study_id, number)
