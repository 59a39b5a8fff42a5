"""A worker: draws tickets until none is left, on any machine that reaches the storage."""

from __future__ import annotations

import os
import platform
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.errors import (
    InterruptedRunError,
    MachineError,
    PrunedRunError,
    RequestError,
    SettingsError,
    WorkbenchError,
)
from workbench.runs import RunRequest
from workbench.runs.signals import stop_on_signals
from workbench.studies.heartbeat import Pulse
from workbench.studies.listener import PROGRESS
from workbench.studies.locks import NeverFreeError, UnreachableError
from workbench.studies.parent import StudyRun
from workbench.studies.queue import REFUSAL, WORKER, Claim, TicketState, TrialQueue
from workbench.studies.space import Point, as_text
from workbench.studies.study import open_study
from workbench.studies.trial import BusyRunError, TrialRunner
from workbench.tracking import default_artifact_root
from workbench.training.checkpoint import CheckpointError
from workbench.training.events import StopFlag

if TYPE_CHECKING:
    from optuna import Trial

SETBACKS = "setbacks"
"""User attribute of a trial: how many workers could not read its checkpoint."""

NOT_HERE = (RequestError, MachineError, OSError)
"""What another machine may do. The worker ends, and the trial waits for others as it was.

A refusal counts as one unless it says that it follows from the settings: a trial that waits in
vain can be helped, one that failed for a missing folder is lost.
"""

NOT_THE_TRIALS_FAULT = (InterruptedRunError, KeyboardInterrupt, UnreachableError, NeverFreeError)
"""The trial waits again, and goes on where it was when somebody can."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with values, with an error, or pruned with neither."""

    shown: str
    values: tuple[float, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did: tickets that it brought to an end."""

    ended: int


def work(
    url: str, name: str, request: RunRequest, say: Callable[[str], None] = lambda text: None
) -> WorkerReport:
    """Run a study's trials until none is waiting and no peer has one that may come back.

    Args:
        url: the study's storage.
        request: how trials are run; configuration, listener and tags are replaced by each trial's.
        say: hears of each trial.

    Raises:
        RequestError: no such study; or this machine cannot run a trial, which waits for others.
        InterruptedRunError: a signal came; the trial waits and continues where it was.
        WorkbenchError: the storage stayed away, or a checkpoint cannot be read.
    """
    storage, spec = open_study(url, name)
    worker = _Worker(TrialQueue(storage, spec), request, say)
    with stop_on_signals() as stop:
        try:
            worker.loop(stop)
        finally:
            worker.close()
    return WorkerReport(worker.ended)


class _Worker:
    def __init__(self, queue: TrialQueue, request: RunRequest, say: Callable[[str], None]) -> None:
        self.queue, self.storage, self.say = queue, queue.storage, say
        self.parent = StudyRun(
            queue, request.tracking_uri, default_artifact_root(request.workspace.root)
        )
        self.request = request
        self.name = f"{platform.node()}:{os.getpid()}"
        self.ended = 0
        self.busy_until: dict[int, float] = {}

    def loop(self, stop: StopFlag) -> None:
        patiently = self.storage.patiently
        self.parent.begin()
        while True:
            if stop.requested:
                raise InterruptedRunError("Stopped between two trials; the others wait.")
            patiently(self.queue.recover, stop)
            avoided = self._avoided()
            claim = patiently(partial(self.queue.claim, avoided, uuid.uuid4().hex), stop)
            if claim is not None:
                self._hold(claim, stop)
            elif avoided or patiently(self.queue.counts, stop)[TicketState.RUNNING]:
                self.queue.wait(stop)  # a peer may die, and its trial come back
            else:
                return

    def _avoided(self) -> set[int]:
        """Tickets found busy a moment ago: others come first."""
        now = time.monotonic()
        self.busy_until = {t: until for t, until in self.busy_until.items() if until > now}
        return set(self.busy_until)

    def close(self) -> None:
        self.parent.end()
        self.storage.close()

    def _hold(self, claim: Claim, stop: StopFlag) -> None:
        """Run a claimed ticket; however that goes, the ticket ends or waits again."""
        from optuna.exceptions import UpdateFinishedTrialError

        def beat() -> None:
            self.storage.rdb.record_heartbeat(claim.trial_id)

        with Pulse(self.storage, self.queue.spec.settings.heartbeat_s, beat):
            try:
                self._attempt(claim, stop)
            except UpdateFinishedTrialError:
                self.say(f"trial {claim.ticket}: a peer has queued it again")
            except BusyRunError as busy:
                self.say(f"{busy} It waits.")
                pause = self.queue.spec.settings.heartbeat_s
                self.busy_until[claim.ticket] = time.monotonic() + pause
                self._give_back(claim, stop)
            except NOT_HERE as error:
                reason = _reason(error)
                self._give_back(claim, stop, reason)
                raise RequestError(
                    f"{reason.rstrip('.')}. Trial {claim.ticket} waits for a worker that can run "
                    "it."
                ) from error
            except CheckpointError as error:
                if not self._set_back(claim, stop, error):
                    raise
            except NOT_THE_TRIALS_FAULT as error:
                stop.requested |= isinstance(error, InterruptedRunError | KeyboardInterrupt)
                self._give_back(claim, stop)
                raise
        self.parent.tell()

    def _attempt(self, claim: Claim, stop: StopFlag) -> None:
        """Draw, run and tell; what is the trial's own fault ends here."""
        patiently, spec = self.storage.patiently, self.queue.spec
        runner = TrialRunner(self.storage, spec, self.request, self.parent.child_tags)
        drawn = self._draw(runner, claim, stop)
        if drawn is None:
            return
        trial, point = drawn
        # What an earlier attempt left behind there is no word of this worker.
        fresh: dict[str, Any] = {WORKER: self.name, PROGRESS: {}}
        if patiently(lambda: trial.user_attrs, stop).get(REFUSAL) is not None:
            fresh[REFUSAL] = None
        for key, value in fresh.items():
            patiently(partial(trial.set_user_attr, key, value), stop)
        shown = ", ".join(f"{key}={as_text(value)}" for key, value in point.items())
        self.say(f"trial {claim.ticket}: {shown}")
        began = time.monotonic()
        try:
            scores = runner.run(trial, point, claim)
        except PrunedRunError as pruned:
            self._finish(claim, stop, Outcome(f"pruned. {pruned}"))
            return
        except SettingsError as error:
            self._finish(claim, stop, Outcome(f"failed. {error}", error=_reason(error)))
            return
        except (BusyRunError, CheckpointError, *NOT_HERE, *NOT_THE_TRIALS_FAULT):
            raise
        except Exception as error:
            reason = _reason(error)
            self._finish(claim, stop, Outcome(f"failed. {reason}", error=reason))
            if not isinstance(error, WorkbenchError):  # a bug; the next trial would meet it too
                raise
            return
        patiently(lambda: runner.record(trial, point, claim, scores), stop)
        text = ", ".join(f"{o.title} {scores.measured[o.name]:.4g}" for o in spec.objectives)
        text += f" in {time.monotonic() - began:.0f} s"
        self._finish(claim, stop, Outcome(text, scores.told))

    def _draw(
        self, runner: TrialRunner, claim: Claim, stop: StopFlag
    ) -> tuple[Trial, Point] | None:
        """The trial's point; None where the sampler's arithmetic broke down, which fails the trial.

        Else every worker in turn would end at it.
        """
        try:
            return self.storage.patiently(lambda: runner.draw(self.queue.study, claim), stop)
        except (ValueError, ArithmeticError) as error:
            reason = f"no point could be drawn: {_reason(error)}"
            self._finish(claim, stop, Outcome(f"failed. {reason}", error=reason))
            return None

    def _finish(self, claim: Claim, stop: StopFlag, outcome: Outcome) -> None:
        def tell() -> bool:
            return self.queue.finish(claim, outcome.values, error=outcome.error)

        kept = self.storage.patiently(tell, stop)
        self.ended += kept
        lost = "" if kept else " (a peer has queued it again, and will recall these results)"
        self.say(f"trial {claim.ticket}: {outcome.shown}{lost}")

    def _set_back(self, claim: Claim, stop: StopFlag, error: Exception) -> bool:
        """Let the trial wait for another worker, or fail it; whether it failed.

        Without a limit one checkpoint that nobody can read would end every worker that comes.
        """
        rdb, patiently = self.storage.rdb, self.storage.patiently
        trial = patiently(lambda: rdb.get_trial(claim.trial_id), stop)
        count = int(trial.user_attrs.get(SETBACKS, 0)) + 1
        patiently(lambda: rdb.set_trial_user_attr(claim.trial_id, SETBACKS, count), stop)
        if count <= self.queue.spec.settings.retries:
            self._give_back(claim, stop)
            return False
        reason = _reason(error)
        self._finish(claim, stop, Outcome(f"failed on {count} workers. {reason}", error=reason))
        return True

    def _give_back(self, claim: Claim, stop: StopFlag, reason: str | None = None) -> None:
        """Best effort when asked to stop: what stays RUNNING is found by its silence."""
        refusal = None if reason is None else {"worker": self.name, "reason": reason}
        try:
            self.storage.patiently(lambda: self.queue.give_back(claim, refusal), stop)
        except (InterruptedRunError, UnreachableError, NeverFreeError) as error:
            self.say(str(error))


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    name = "" if isinstance(error, WorkbenchError) else f"{type(error).__name__}: "
    return f"{name}{lines[0]}"[:480]
