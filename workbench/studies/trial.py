"""One trial: a point of the space, run with every seed, as tracked and resumable runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import PrunedRunError, RequestError, SettingsError
from workbench.runs.execution import check_request, execute
from workbench.runs.spec import RunSpec
from workbench.students.text import Say, silent_say
from workbench.studies.listener import TrialAddress, TrialListener
from workbench.studies.objectives import student_scores
from workbench.studies.samplers import calm_optuna, make_sampler, trial_seed
from workbench.studies.space import Point, at_point, suggest
from workbench.studies.spec import StudySpec
from workbench.studies.storage import StudyStorage
from workbench.studies.trials import Lease
from workbench.teachers import find_teacher
from workbench.training.config import RunConfig
from workbench.training.events import StopFlag
from workbench.training.run_folder import run_folder

if TYPE_CHECKING:
    from optuna import Study, Trial

RUNS = "runs"
"""User attribute of a trial: the folders of its runs."""


@dataclass(frozen=True)
class TrialScores:
    """What a trial's runs measured.

    Attributes:
        told: what Optuna compares, an objective each, in their order: the mean over seeds.
        measured: every metric that all runs measured, by name: the mean over seeds.
    """

    told: tuple[float, ...]
    measured: Mapping[str, float]


@dataclass(frozen=True)
class TrialRunner:
    """How a worker runs trials.

    Attributes:
        request: everything but configuration and tags, which each run brings.
        tags: of every run, beside the trial's own.
        find_teacher: as for :func:`workbench.runs.execution.execute`, like ``say``.
    """

    storage: StudyStorage
    spec: StudySpec
    request: RunSpec
    tags: Mapping[str, str]
    find_teacher: Callable[[str, Path], Path] = find_teacher
    say: Say = silent_say

    def draw(self, study: Study, lease: Lease) -> tuple[Trial, Point]:
        """Optuna's trial with its point drawn; what was drawn before stays.

        Drawing it once more after the database failed in between gives a whole point again.
        """
        from optuna.trial import Trial

        with calm_optuna():
            seed = trial_seed(self.spec.settings.sampler_seed, lease.number)
            study.sampler = make_sampler(self.spec.settings.sampler, seed)
            trial = Trial(study, lease.trial_id)
            return trial, suggest(self.spec.space, trial)

    def config(self, point: Point, lease: Lease, seed: int) -> RunConfig:
        """One run of a trial: measured where the objectives are, at its full step count.

        Raises:
            SettingsError: the configuration refuses the point.
            RequestError: its batch does not divide by this worker's processes.
        """
        try:
            config = at_point(self.spec.base, point)
        except RequestError as error:
            raise SettingsError(str(error)) from None
        check_request(config, self.request.nproc)
        steps = config.generator.steps
        return config.model_copy(
            update={
                "experiment": self.spec.run_experiment,
                "variant": f"trial{lease.number}",
                "seed": seed,
                "evaluation": config.evaluation.model_copy(
                    update={"student_steps": (steps,), "fresh_seeds": 0}
                ),
            }
        )

    def run(self, trial: Trial, point: Point, lease: Lease, stop: StopFlag) -> TrialScores:
        """The trial's scores, once its runs are done.

        Raises:
            PrunedRunError: it is not worth finishing.
            AlreadyRunningError: another process holds one of its runs.
            SettingsError: the point is wrong, on this machine as on any other.
            RequestError: this machine refuses it, or lacks something.
            WorkbenchError: the run failed, or was interrupted and resumes when run again.
        """
        scores: list[dict[str, float]] = []
        seeds = self.spec.settings.seeds
        for place, seed in enumerate(seeds):
            scores.append(self._run_once(self.config(point, lease, seed), lease, place))
            if self.spec.prunes_over_seeds:
                worse = self._is_worse(trial, lease, place, scores[-1], stop)
                if worse and place + 1 < len(seeds):
                    raise PrunedRunError(f"Worse than the best trial after {place + 1} seeds.")
        known = [name for name in scores[0] if all(name in score for score in scores)]
        return TrialScores(
            tuple(
                statistics.fmean(objective.told(score[objective.name]) for score in scores)
                for objective in self.spec.objectives
            ),
            {name: statistics.fmean(score[name] for score in scores) for name in known},
        )

    def record(self, trial: Trial, point: Point, lease: Lease, scores: TrialScores) -> None:
        """Keep beside the trial what its values do not say: all scores, and where its runs are."""
        folders = [
            run_folder(self.request.workspace, self.config(point, lease, seed)).name
            for seed in self.spec.settings.seeds
        ]
        attributes: dict[str, Any] = {**scores.measured, RUNS: folders}
        for name, value in attributes.items():
            trial.set_user_attr(name, value)

    def _run_once(self, config: RunConfig, lease: Lease, place: int) -> dict[str, float]:
        address = TrialAddress(self.storage.url, self.spec, lease.number, lease.trial_id, place)
        tags = {**self.tags, "study": self.spec.name, "trial": str(lease.number)}
        outcome = execute(
            replace(self.request, config=config, tags=tags),
            make_listener=partial(TrialListener, address),
            find_teacher=self.find_teacher,
            say=self.say,
        )
        return student_scores(outcome.results, config.generator.steps, self.spec.objectives)

    def _is_worse(
        self, trial: Trial, lease: Lease, place: int, scores: Mapping[str, float], stop: StopFlag
    ) -> bool:
        """Wilcoxon's question: does the trial lose to the best one, seed by seed?"""
        (objective,) = self.spec.objectives

        def ask() -> bool:
            known = self.storage.rdb.get_trial(lease.trial_id).intermediate_values
            if place not in known:
                trial.report(objective.told(scores[objective.name]), place)
            with calm_optuna():
                return trial.should_prune()

        return self.storage.patiently(ask, stop)
