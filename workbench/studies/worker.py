"""A worker: runs trials until none is left, on any machine that reaches the storage."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import (
    AlreadyRunningError,
    InterruptedRunError,
    MachineError,
    PrunedRunError,
    RequestError,
    SettingsError,
    WorkbenchError,
)
from workbench.runs.signals import stop_on_signals
from workbench.runs.spec import RunSpec
from workbench.students.text import Say, silent_say
from workbench.studies.heartbeat import heartbeat
from workbench.studies.listener import PROGRESS
from workbench.studies.parent import StudyRun
from workbench.studies.space import as_text
from workbench.studies.storage import UnreachableError
from workbench.studies.study import open_study
from workbench.studies.trial import TrialRunner
from workbench.studies.trials import REFUSAL, WORKER, Lease, StudyTrials, TrialStatus
from workbench.teachers import find_teacher
from workbench.tracking import default_artifact_root
from workbench.training.checkpoint import CheckpointError
from workbench.training.events import StopFlag

SETBACKS = "setbacks"
"""User attribute of a trial: how many workers could not read what it needs."""

ELSEWHERE = (RequestError, MachineError)
"""What another machine may do. The worker ends, and the trial waits for others as it was.

A refusal counts as one unless it says that it follows from the settings: a trial that waits in
vain can be helped, one that failed for a missing folder is lost.
"""

UNREADABLE = (CheckpointError, OSError)
"""What another machine may read, or nobody: the trial waits for others, but not for ever."""

NOT_THE_TRIALS_FAULT = (InterruptedRunError, KeyboardInterrupt, UnreachableError)
"""The trial waits again, and goes on where it was when somebody can."""

_MACHINE_ERRORS = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    }
)
"""Full or broken disks, closed folders, too few files or too little memory: of a machine."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with values, with an error, or pruned with neither."""

    shown: str
    values: tuple[float, ...] | None = None
    error: str | None = None


def work(
    url: str,
    name: str,
    request: RunSpec,
    *,
    find_teacher: Callable[[str, Path], Path] = find_teacher,
    say: Say = silent_say,
) -> int:
    """Run a study's trials until none is waiting and no peer has one that may come back.

    Args:
        url: the study's storage.
        request: how trials are run; configuration and tags are replaced by each trial's.
        find_teacher: the folder of a teacher's name, built or fetched if need be.
        say: hears of each trial; it travels to the ranks' processes.

    Returns:
        how many trials this worker brought to an end.

    Raises:
        RequestError: no such study; or this machine cannot run a trial, which waits for others.
        InterruptedRunError: a signal came; the trial waits and continues where it was.
        WorkbenchError: the storage stayed away, or a checkpoint cannot be read.
    """
    storage, spec = open_study(url, name)
    worker = _Worker(StudyTrials(storage, spec), request, find_teacher, say)
    with stop_on_signals() as stop:
        try:
            worker.loop(stop)
        finally:
            worker.close()
    return worker.ended


class _Worker:
    def __init__(
        self,
        trials: StudyTrials,
        request: RunSpec,
        find_teacher: Callable[[str, Path], Path],
        say: Say,
    ) -> None:
        self.trials, self.storage, self.spec = trials, trials.storage, trials.spec
        self.request, self.find_teacher, self.say = request, find_teacher, say
        self.parent = StudyRun(
            trials, request.tracking_uri, default_artifact_root(request.workspace.root)
        )
        self.name = f"{platform.node()}:{os.getpid()}"
        self.ended = 0
        self.busy_until: dict[int, float] = {}

    def loop(self, stop: StopFlag) -> None:
        patiently = self.storage.patiently
        self.parent.begin()
        while True:
            if stop.requested:
                raise InterruptedRunError("Stopped between two trials; the others wait.")
            patiently(self.trials.recover, stop)
            # Those found busy a moment ago are left alone: others come first.
            busy = [n for n, until in self.busy_until.items() if until > time.monotonic()]
            lease = patiently(partial(self.trials.lease, busy), stop)
            if lease is not None:
                self._hold(lease, stop)
            elif busy or patiently(self.trials.counts, stop)[TrialStatus.RUNNING]:
                self.trials.wait(stop)  # a peer may die, and its trial come back
            else:
                return

    def close(self) -> None:
        self.parent.end()
        self.storage.close()

    def _hold(self, lease: Lease, stop: StopFlag) -> None:
        """Run a leased trial; however that goes, the trial ends or waits again."""
        from optuna.exceptions import UpdateFinishedTrialError

        def beat() -> None:
            self.storage.rdb.record_heartbeat(lease.trial_id)

        with heartbeat(self.storage, self.spec.settings.heartbeat_s, beat):
            try:
                self._attempt(lease, stop)
            except UpdateFinishedTrialError:
                self.say(f"trial {lease.number}: a peer has ended it")
            except AlreadyRunningError:
                self.say(f"Trial {lease.number} is still being run by another process. It waits.")
                pause = self.spec.settings.heartbeat_s
                self.busy_until[lease.number] = time.monotonic() + pause
                self._release(lease, stop)
            except (*ELSEWHERE, *UNREADABLE) as error:
                if self._is_elsewhere(error):
                    reason = _reason(error)
                    self._release(lease, stop, reason)
                    raise RequestError(
                        f"{reason.rstrip('.')}. Trial {lease.number} waits for a worker that can "
                        "run it."
                    ) from error
                if not self._set_back(lease, stop, error):
                    raise
            except NOT_THE_TRIALS_FAULT as error:
                stop.requested |= isinstance(error, InterruptedRunError | KeyboardInterrupt)
                self._release(lease, stop)
                raise
        self.parent.tell()

    def _is_elsewhere(self, error: BaseException) -> bool:
        """Whether the error is this machine's alone: its settings, its disk, our own workspace."""
        if not isinstance(error, OSError):
            return isinstance(error, ELSEWHERE)
        ours, file = self.request.workspace.root.resolve(), error.filename
        is_ours = isinstance(file, str) and Path(file).resolve().is_relative_to(ours)
        return error.errno in _MACHINE_ERRORS or is_ours

    def _attempt(self, lease: Lease, stop: StopFlag) -> None:
        """Draw, run and tell; what is the trial's own fault ends here."""
        patiently, spec = self.storage.patiently, self.spec
        runner = TrialRunner(
            self.storage, spec, self.request, self.parent.child_tags, self.find_teacher, self.say
        )
        try:
            trial, point = patiently(lambda: runner.draw(self.trials.study, lease), stop)
        except (ValueError, ArithmeticError) as error:  # else every worker in turn would end here
            reason = f"no point could be drawn: {_reason(error)}"
            self._finish(lease, stop, Outcome(f"failed. {reason}", error=reason))
            return
        # What an earlier attempt left behind there is no word of this worker.
        fresh: dict[str, Any] = {WORKER: self.name, PROGRESS: {}}
        if patiently(lambda: trial.user_attrs, stop).get(REFUSAL) is not None:
            fresh[REFUSAL] = None
        for key, value in fresh.items():
            patiently(partial(trial.set_user_attr, key, value), stop)
        shown = ", ".join(f"{key}={as_text(value)}" for key, value in point.items())
        self.say(f"trial {lease.number}: {shown}")
        began = time.monotonic()
        try:
            scores = runner.run(trial, point, lease, stop)
        except PrunedRunError as pruned:
            self._finish(lease, stop, Outcome(f"pruned. {pruned}"))
            return
        except SettingsError as error:
            self._finish(lease, stop, Outcome(f"failed. {error}", error=_reason(error)))
            return
        except (*ELSEWHERE, *UNREADABLE, *NOT_THE_TRIALS_FAULT):
            raise
        except Exception as error:
            reason = _reason(error)
            self._finish(lease, stop, Outcome(f"failed. {reason}", error=reason))
            if not isinstance(error, WorkbenchError):  # a bug; the next trial would meet it too
                raise
            return
        patiently(lambda: runner.record(trial, point, lease, scores), stop)
        text = ", ".join(f"{o.title} {scores.measured[o.name]:.4g}" for o in spec.objectives)
        text += f" in {time.monotonic() - began:.0f} s"
        self._finish(lease, stop, Outcome(text, scores.told))

    def _finish(self, lease: Lease, stop: StopFlag, outcome: Outcome) -> None:
        def tell() -> bool:
            return self.trials.finish(lease, outcome.values, error=outcome.error)

        kept = self.storage.patiently(tell, stop)
        self.ended += kept
        lost = (
            ""
            if kept
            else " (not kept: this worker was silent for so long that it counted as dead; "
            "a peer that takes the trial up recalls its runs)"
        )
        self.say(f"trial {lease.number}: {outcome.shown}{lost}")

    def _set_back(self, lease: Lease, stop: StopFlag, error: Exception) -> bool:
        """Let the trial wait for another worker, or fail it; whether it failed.

        Without a limit one file that nobody can read would end every worker that comes.
        """
        rdb, patiently = self.storage.rdb, self.storage.patiently
        trial = patiently(lambda: rdb.get_trial(lease.trial_id), stop)
        count = int(trial.user_attrs.get(SETBACKS, 0)) + 1
        patiently(lambda: rdb.set_trial_user_attr(lease.trial_id, SETBACKS, count), stop)
        if count <= self.spec.settings.retries:
            self._release(lease, stop)
            return False
        reason = _reason(error)
        self._finish(lease, stop, Outcome(f"failed on {count} workers. {reason}", error=reason))
        return True

    def _release(self, lease: Lease, stop: StopFlag, reason: str | None = None) -> None:
        """Best effort when asked to stop: what stays RUNNING is found by its silence."""
        refusal = None if reason is None else {"worker": self.name, "reason": reason}
        try:
            self.storage.patiently(lambda: self.trials.release(lease, refusal), stop)
        except (InterruptedRunError, UnreachableError) as error:
            self.say(str(error))


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    name = "" if isinstance(error, WorkbenchError) else f"{type(error).__name__}: "
    return f"{name}{lines[0]}"[:480]
