"""A study's trials, drawn, run and told by any number of workers on any machines.

A trial is one record of Optuna from its first worker to its end. A worker that runs it holds a
lease on it and keeps giving signs of life; when it falls silent, by the pace that it had announced
itself, the trial waits again with its point and its reports, and the next worker finds its runs.
"""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from workbench.errors import InterruptedRunError, RequestError
from workbench.studies.space import Point
from workbench.studies.spec import StudySettings, StudySpec
from workbench.studies.storage import StudyStorage
from workbench.studies.study import load_study
from workbench.studies.tables import HOLDER, claim, give_up, last_heartbeats
from workbench.training.events import StopFlag

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# User attributes of a trial, as people and dashboards see them.
ERROR = "error"
"""Why a trial failed by itself; one lost with its workers has none."""
WORKER = "worker"
"""Host and process that run a trial, or ran it."""
REFUSAL = "refusal"
"""Who could not run a trial where it is, and why; else None."""
ATTEMPTS = "attempts"
"""How many workers took a trial up and did not give it back; absent for one."""

_BUDGET = "trials"  # the study's user attribute: how many trials it is to have
_PACE = "workbench:pace"  # a trial's system attribute: its worker's pace
_FIXED = "fixed_params"  # Optuna's own name in a trial's system attributes
# Optuna's own names too: until a trial kept its record, a new one took up that of a dead worker.
_FIRST_RECORD, _EARLIER_RECORDS = "failed_trial", "retry_history"


class TrialStatus(StrEnum):
    """Where a trial stands. LOST: its workers died, more often than it is retried."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    LOST = "lost"


OPEN = frozenset({TrialStatus.WAITING, TrialStatus.RUNNING})


def status_of(trial: FrozenTrial) -> TrialStatus:
    """Where a trial stands."""
    if trial.state.name == "FAIL":
        return TrialStatus.FAILED if ERROR in trial.user_attrs else TrialStatus.LOST
    return TrialStatus[trial.state.name]


def number_of(trial: FrozenTrial) -> int:
    """The number by which people and runs know a trial."""
    return int(trial.system_attrs.get(_FIRST_RECORD, trial.number))


def attempts_at(trial: FrozenTrial) -> int:
    """How many workers took a trial up and did not give it back."""
    earlier = len(trial.system_attrs.get(_EARLIER_RECORDS, ()))
    return earlier + int(trial.user_attrs.get(ATTEMPTS, 1))


def grace_of(trial: FrozenTrial, settings: StudySettings) -> int:
    """Seconds of silence after which the worker of a running trial is dead.

    They are the worker's own, which began with the settings of its time; the longer of the study's
    and the usual time where it announced none.
    """
    pace: Mapping[str, Any] = trial.system_attrs.get(_PACE, {})
    return int(pace.get("grace_s", max(settings.grace_s, StudySettings().grace_s)))


@dataclass(frozen=True)
class Lease:
    """A trial that this process may run: the storage's id of it, and its number."""

    trial_id: int
    number: int


class StudyTrials:
    """The trials of one study. Every call may be repeated after a failure of the database."""

    def __init__(self, storage: StudyStorage, spec: StudySpec) -> None:
        self.storage, self.spec = storage, spec
        self.study = load_study(storage, spec)
        self._study_id = storage.rdb.get_study_id_from_name(spec.name)
        self._lock = f"trials/{spec.name}"
        self._holder = uuid.uuid4().hex
        self._since = time.monotonic()

    def all(self) -> list[FrozenTrial]:
        """Every trial that has a record, by number."""
        trials = self.study.get_trials(deepcopy=False)
        earlier = {n for t in trials for n in t.system_attrs.get(_EARLIER_RECORDS, ())}
        return sorted((t for t in trials if t.number not in earlier), key=number_of)

    @property
    def budget(self) -> int:
        """How many trials the study is to have; a record is made for each when it begins."""
        return int(self.study.user_attrs.get(_BUDGET, 0))

    def counts(self) -> Counter[TrialStatus]:
        """How many trials are in each state; those that have not begun wait."""
        return count(self.all(), self.budget)

    def extend(self, total: int) -> int:
        """Let the study have ``total`` trials; returns how many that adds.

        Several workers at a database that crashes may each begin one more.
        """
        with self.storage.lock(self._lock):
            known = max(self.budget, len(self.all()))
            if total > self.budget:
                self.study.set_user_attr(_BUDGET, total)
            return max(0, total - known)

    def enqueue(self, point: Point) -> int:
        """Let a point be the next trial; returns its number."""
        with self.storage.lock(self._lock):
            self.study.enqueue_trial(dict(point))
            return self.study.get_trials(deepcopy=False)[-1].number

    def lease(self, avoid: Collection[int] = ()) -> Lease | None:
        """A trial to run, None where none is left; its pace is this process's settings'.

        Those begun before come first, then points of a person's, then new ones, and last those
        that a worker could not run. One that this process has already is found again, so that a
        call may be repeated whose answer was lost.

        Args:
            avoid: trials that are left to others.
        """
        # Claiming is atomic by itself; the lock saves collisions and trials beyond the budget.
        with self.storage.lock(self._lock):
            trials = self.all()
            for trial in trials:
                if self._is_ours(trial):
                    return self._lease_of(trial)
            waiting = sorted(
                (t for t in trials if t.state.name == "WAITING" and number_of(t) not in avoid),
                key=lambda t: (not t.params, not t.system_attrs.get(_FIXED), number_of(t)),
            )
            lease = self._first(t for t in waiting if t.user_attrs.get(REFUSAL) is None)
            if lease is None and len(trials) < self.budget:
                lease = self._create()
            return lease or self._first(waiting)

    def release(self, lease: Lease, refusal: Mapping[str, str] | None = None) -> None:
        """Let the trial wait again: nothing was wrong with it, and it does not count as a try.

        Args:
            refusal: who could not run it, and why; it then waits behind all others.
        """
        from optuna.trial import TrialState

        refused = {} if refusal is None else {REFUSAL: dict(refusal)}
        give_up(self.storage.rdb, lease.trial_id, TrialState.WAITING, self._holder, refused)

    def recover(self) -> None:
        """Let the trials of dead workers wait again, and end those that were lost too often.

        After a silence of the database everyone gets the time to show that they live.
        """
        from optuna.trial import TrialState

        rdb = self.storage.rdb
        heard_s = time.monotonic() - max(self._since, self.storage.last_trouble or 0.0)
        signs = last_heartbeats(rdb, self._study_id)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            trial_id = self._lease_of(trial).trial_id
            if trial_id not in signs:  # who created it died before the next step
                rdb.record_heartbeat(trial_id)
                continue
            at, silence_s = signs[trial_id]
            if min(silence_s, heard_s) <= grace_of(trial, self.spec.settings):
                continue
            lost = attempts_at(trial) > self.spec.settings.retries
            state = TrialState.FAIL if lost else TrialState.WAITING
            told = {} if lost else {ATTEMPTS: int(trial.user_attrs.get(ATTEMPTS, 1)) + 1}
            give_up(rdb, trial_id, state, trial.system_attrs.get(HOLDER), told, heard=at)

    def check_idle(self) -> None:
        """That nobody works on the study.

        Raises:
            RequestError: a worker gave a sign of life within its own grace.
        """
        signs = last_heartbeats(self.storage.rdb, self._study_id)
        for trial in self.all():
            _, silence_s = signs.get(trial._trial_id, (None, math.inf))
            if silence_s <= grace_of(trial, self.spec.settings):
                worker = trial.user_attrs.get(WORKER, "a worker")
                raise RequestError(
                    f"Trial {number_of(trial)} of {self.spec.name} is being run by {worker}, which "
                    f"gave a sign of life {silence_s:.0f} s ago: stop it first."
                )

    def remove(self) -> None:
        """Delete the study and its trials from the storage.

        Raises:
            RequestError: as :meth:`check_idle`.
        """
        with self.storage.lock(self._lock):
            self.check_idle()
            self.storage.rdb.delete_study(self._study_id)

    def finish(
        self, lease: Lease, values: Sequence[float] | None, *, error: str | None = None
    ) -> bool:
        """Tell how the trial ended: values, an error, or neither for a pruned one.

        Returns:
            False if a peer thought this worker dead. The outcome is dropped here; a peer that
            takes the trial up recalls the run that made it, and none does if it was its last try.
        """
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        state = TrialState.COMPLETE if values is not None else TrialState.PRUNED
        state = state if error is None else TrialState.FAIL
        trial = self.storage.rdb.get_trial(lease.trial_id)
        if self._is_ours(trial):
            try:
                if error is not None:
                    self.storage.rdb.set_trial_user_attr(lease.trial_id, ERROR, error)
                self.study.tell(trial.number, values, state, skip_if_finished=True)
            except UpdateFinishedTrialError:
                pass
            except ValueError:  # also where it waits again: a peer took us for dead this moment
                if self._is_ours(self.storage.rdb.get_trial(lease.trial_id)):
                    raise
            trial = self.storage.rdb.get_trial(lease.trial_id)
        return trial.state is state and trial.system_attrs.get(HOLDER) == self._holder

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

    def _first(self, trials: Iterable[FrozenTrial]) -> Lease | None:
        leases = (self._lease_of(trial) for trial in trials)
        claimed = (e for e in leases if claim(self.storage.rdb, e.trial_id, self._terms()))
        return next(claimed, None)

    def _create(self) -> Lease:
        from optuna.trial import TrialState, create_trial

        begun = create_trial(state=TrialState.RUNNING, system_attrs=self._terms())
        trial_id = self.storage.rdb.create_new_trial(self._study_id, begun)
        self.storage.rdb.record_heartbeat(trial_id)
        self.study.get_trials(deepcopy=False)  # tells Optuna's cache of the trial
        return self._lease_of(self.storage.rdb.get_trial(trial_id))

    def _terms(self) -> dict[str, Any]:
        settings = self.spec.settings
        pace = {"heartbeat_s": settings.heartbeat_s, "grace_s": settings.grace_s}
        return {HOLDER: self._holder, _PACE: pace}

    def _is_ours(self, trial: FrozenTrial) -> bool:
        return trial.state.name == "RUNNING" and trial.system_attrs.get(HOLDER) == self._holder

    def _lease_of(self, trial: FrozenTrial) -> Lease:
        return Lease(trial._trial_id, number_of(trial))


def count(trials: Sequence[FrozenTrial], budget: int) -> Counter[TrialStatus]:
    """How many trials are in each state; those of the budget that have not begun wait."""
    counts = Counter(status_of(trial) for trial in trials)
    counts[TrialStatus.WAITING] += max(0, budget - len(trials))
    return +counts  # without those that are zero
