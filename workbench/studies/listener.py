"""A trial's run, as its study hears of it: evaluations to judge by, and how far it is.

It is opened where the run's rank 0 lives, which may be another process than the worker's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.studies.heartbeat import heartbeat
from workbench.studies.samplers import calm_optuna
from workbench.studies.spec import StudySpec
from workbench.studies.storage import StudyStorage
from workbench.studies.study import load_study
from workbench.training.events import Listener, Progress

if TYPE_CHECKING:
    from optuna import Trial

LOG = logging.getLogger(__name__)

PROGRESS = "progress"
"""User attribute of a trial: where its present run stands."""


@dataclass(frozen=True)
class TrialAddress:
    """Where a trial is found; ``url`` may hold a password, and is never shown.

    Attributes:
        place: of the present run among the trial's seeds, from 0.
    """

    url: str
    spec: StudySpec
    number: int
    trial_id: int
    place: int

    @property
    def is_judged(self) -> bool:
        """Whether the study judges the trial by this run's evaluations.

        By those of the first seed alone: a recipe that is bad there does not reach the second, and
        a later seed's early evaluations would be held against its own first seed's best one.
        """
        objective = self.spec.objective
        scored = objective is not None and objective.metric is not None
        return scored and not self.spec.prunes_over_seeds and self.place == 0


class TrialListener(Listener):
    """Reports to a study, and asks it whether the trial is worth finishing.

    What is in the way of the database never stops the run.
    """

    def __init__(self, address: TrialAddress) -> None:
        self.address = address
        self.storage = StudyStorage(address.url)
        self.unsent: dict[int, float] = {}
        self.progress: Progress | None = None
        self._judged = address.is_judged
        self._trial: Trial | None = None
        self._open = ExitStack()

    def on_start(self, progress: Progress) -> None:
        self.progress = progress
        interval = self.address.spec.settings.heartbeat_s
        self._open.enter_context(heartbeat(self.storage, interval, self._write_progress))

    def on_iteration(self, progress: Progress) -> None:
        self.progress = progress

    def on_metrics(self, nimg: int, values: Mapping[str, float]) -> None:
        objective = self.address.spec.objective
        # Before the first step every trial is its teacher.
        if not self._judged or nimg == 0 or objective is None or objective.metric is None:
            return
        if objective.metric in values:
            told = objective.told(values[objective.metric])
            self.unsent[self.address.spec.rungs.step(nimg)] = told
            self._ask(self._report)

    def wants_end(self) -> bool:
        """Whether the pruner has had enough; never while the database does not answer."""
        return self._judged and not self.unsent and self._ask(lambda trial: trial.should_prune())

    def on_end(self) -> None:
        self._open.close()
        self.storage.close()

    def _report(self, trial: Trial) -> bool:
        known = self.storage.rdb.get_trial(self.address.trial_id).intermediate_values
        for step, value in sorted(self.unsent.items()):
            if step not in known:
                trial.report(value, step)
        self.unsent.clear()
        return True

    def _ask(self, question: Callable[[Trial], bool]) -> bool:
        """The study's answer; False while the database is away, and once a peer ended the trial."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            with calm_optuna():
                return question(self._opened())
        except UpdateFinishedTrialError:
            LOG.warning("Trial %d was taken for lost; a peer has ended it.", self.address.number)
            self._judged = False
            self.unsent.clear()
        except Exception as error:
            if not self.storage.is_trouble(error):
                raise
            LOG.warning("The study could not be asked about trial %d yet.", self.address.number)
            self._trial = None
        return False

    def _opened(self) -> Trial:
        """Optuna's trial, for reports alone: its sampler draws nothing."""
        if self._trial is None:
            from optuna.trial import Trial

            study = load_study(self.storage, self.address.spec)
            study.get_trials(deepcopy=False)
            self._trial = Trial(study, self.address.trial_id)
        return self._trial

    def _write_progress(self) -> None:
        if self.progress is None:
            return
        value = {
            "nimg": self.progress.nimg,
            "total_nimg": self.progress.total_nimg,
            "images_per_s": round(self.progress.images_per_s, 2),
            "run": self.address.place,
            "runs": len(self.address.spec.settings.seeds),
            "at": round(time.time(), 1),
        }
        self.storage.rdb.set_trial_user_attr(self.address.trial_id, PROGRESS, value)
