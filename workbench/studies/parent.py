"""A study in MLflow: one run that is the parent of every trial's runs, in an experiment of its own.

Any worker may speak for the study, one at a time. What goes wrong here is said and never more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.state import OUTCOME, RunState
from workbench.runs.tags import RUN_KIND
from workbench.studies.spec import StudySpec, run_experiment
from workbench.studies.storage import StudyStorage
from workbench.studies.study import exact_name, load_spec, study_names
from workbench.studies.trials import OPEN, StudyTrials, TrialStatus, count, number_of, status_of
from workbench.tracking import KIND, environment_tags, redact
from workbench.tracking.store import get_or_create_experiment, open_store, summary

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LOG = logging.getLogger(__name__)

STUDY_KIND = "study"
"""Tag ``kind`` of a study's own run, beside runs and plans."""

PARENT_TAG = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_MOST_RUNS = 50_000  # that MLflow gives in one answer

_TOLD = "mlflow_told"  # the study's user attribute, for each run of it: which trials it heard of
_CHILD_STATES: Mapping[TrialStatus, tuple[str, RunState]] = {
    TrialStatus.COMPLETE: ("KILLED", RunState.INTERRUPTED),
    TrialStatus.PRUNED: ("KILLED", RunState.PRUNED),
    TrialStatus.FAILED: ("FAILED", RunState.FAILED),
    TrialStatus.LOST: ("FAILED", RunState.FAILED),
    TrialStatus.WAITING: ("KILLED", RunState.INTERRUPTED),
}
"""What a run that still claims to be running truly is once nobody runs its trial. Beside a complete
one it is the first half of a trial that another machine finished in a run of its own."""


class StudyRun:
    """The study's run in one store.

    Args:
        artifact_root: of a store in a database; a server decides by itself.
    """

    def __init__(self, trials: StudyTrials, tracking_uri: str, artifact_root: Path) -> None:
        self.trials, self.spec = trials, trials.spec
        self.uri, self.artifact_root = tracking_uri, artifact_root
        self.run_id: str | None = None
        self._client: Any = None
        self._complained = False

    @property
    def child_tags(self) -> dict[str, str]:
        """What makes a run a child of the study; nothing while the store does not answer."""
        return {} if self.run_id is None else {PARENT_TAG: self.run_id}

    def begin(self) -> None:
        """Find the run or make it, and say that the study goes on."""
        self._speak(self._begin)

    def tell(self) -> None:
        """The best value and the counts after every trial that has ended since the last time.

        Says also that the study goes on: a peer that left meanwhile may have said otherwise.
        """
        self._speak(self._tell)

    def end(self) -> None:
        """Tell the rest; if nobody works any more, the study and its trials get their states."""
        self._speak(self._end)

    def add_files(self, files: Mapping[Path, str]) -> None:
        """Keep files with the run, each in a folder; a store without the run gets none."""

        def add() -> None:
            for file, folder in files.items():
                self._client.log_artifact(self.run_id, str(file), folder)

        self._speak(add, create=False)

    def remove(self) -> None:
        """Delete the run as MLflow does: it can be restored."""
        self._speak(lambda: self._client.delete_run(self.run_id), create=False)

    def _speak(self, action: Callable[[], None], *, create: bool = True) -> None:
        """Do something in the store, in one process at a time; whatever it raises ends here."""
        storage = self.trials.storage
        try:
            if self._client is None:
                self._client = open_store(self.uri, self.artifact_root)
            with storage.lock(f"tracking/{self.spec.name}"):
                if self.run_id is None:
                    self.run_id = self._find()
                if self.run_id is None and not create:
                    name = self.spec.name
                    LOG.warning("%s has no run of the study %s.", redact(self.uri), name)
                    return
                if self.run_id is None:
                    self.run_id = self._create()
                action()
        except Exception as error:
            storage.is_trouble(error)
            if not self._complained:
                text = summary(error, self.uri)
                LOG.warning("The study's run in %s is behind: %s", redact(self.uri), text)
            self._complained = True
        else:
            self._complained = False

    def _begin(self) -> None:
        self._client.update_run(self.run_id, status="RUNNING")
        self._client.set_tag(self.run_id, OUTCOME, RunState.RUNNING)

    def _end(self) -> None:
        self._adopt()
        self._tell()
        trials, waiting = self.trials.all(), self.trials.counts()[TrialStatus.WAITING]
        states = {status_of(trial) for trial in trials}
        if TrialStatus.RUNNING in states:
            return
        self._settle(trials)
        status, outcome = "FINISHED", RunState.FINISHED
        if waiting:
            status, outcome = "KILLED", RunState.INTERRUPTED
        elif states and states.isdisjoint({TrialStatus.COMPLETE, TrialStatus.PRUNED}):
            status, outcome = "FAILED", RunState.FAILED
        self._client.set_tag(self.run_id, OUTCOME, str(outcome))
        self._client.set_tag(self.run_id, _NOTE, describe(self.spec, trials))
        self._client.set_terminated(self.run_id, status)

    def _find(self) -> str | None:
        """The study's run in this store: other stores may have one too."""
        spec = self.spec
        experiment = self._client.get_experiment_by_name(spec.run_experiment)
        if experiment is None:
            return None
        wanted = f"tags.study = '{spec.name}' and tags.{KIND} = '{STUDY_KIND}'"
        found = self._client.search_runs(
            [experiment.experiment_id], wanted, order_by=["attributes.start_time"], max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _create(self) -> str:
        from mlflow.entities import Param

        spec = self.spec
        experiment = get_or_create_experiment(self._client, spec.run_experiment, self.artifact_root)
        tags = {
            KIND: STUDY_KIND,
            "study": spec.name,
            "experiment": spec.run_experiment,
            _NOTE: describe(spec, []),
            **environment_tags(),
        }
        created = self._client.create_run(experiment, tags=tags, run_name=f"study {spec.name}")
        params = [Param(*item) for item in parameters(spec).items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(created.info.run_id, params=params[start : start + 100])
        return str(created.info.run_id)

    def _adopt(self) -> None:
        """Trials whose run has no parent here: this store did not answer, or they came to it later.

        The children of a study that was removed keep their own.
        """
        from mlflow.exceptions import MlflowException

        ours = f"tags.study = '{self.spec.name}' and tags.{KIND} = '{RUN_KIND}'"
        known = {str(self.run_id): True}
        for run in self._children(ours):
            parent = run.data.tags.get(PARENT_TAG)
            if parent is not None and parent not in known:
                try:
                    known[parent] = bool(self._client.get_run(parent))
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
                    known[parent] = False
            if parent is None or not known[parent]:
                self._client.set_tag(run.info.run_id, PARENT_TAG, self.run_id)

    def _tell(self) -> None:
        from mlflow.entities import Metric, RunTag

        self._begin()
        study, trials = self.trials.study, self.trials.all()
        told: list[int] = study.user_attrs.get(f"{_TOLD}/{self.run_id}", [])
        ended = {number_of(t): t for t in trials if status_of(t) not in OPEN}
        # In the order of their ends; one that was told before stays where it was.
        new = sorted(set(ended) - set(told), key=lambda number: _ended_at(ended[number]))
        order = [number for number in told if number in ended] + new
        points = history([ended[number] for number in order], self.spec)
        metrics = [
            Metric(key, value, _ended_at(ended[number]), step)
            for step, (number, values) in enumerate(zip(order, points, strict=True), 1)
            if number in new
            for key, value in values.items()
        ]
        counts = count(trials, self.trials.budget)
        tags = {f"trials.{status}": str(counts[status]) for status in TrialStatus}
        best = best_trials(self.spec, trials)
        if best and self.spec.objective is not None:
            tags |= {
                "best.trial": str(number_of(best[0])),
                "best.point": json.dumps(best[0].params),
            }
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self._client.log_batch(self.run_id, tags=[RunTag(*item) for item in tags.items()])
        study.set_user_attr(f"{_TOLD}/{self.run_id}", order)

    def _settle(self, trials: Sequence[FrozenTrial]) -> None:
        """Runs whose worker was killed say RUNNING for ever, unless somebody corrects them."""
        states = {str(number_of(trial)): status_of(trial) for trial in trials}
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in self._children(wanted):
            state = states.get(run.data.tags.get("trial", ""), TrialStatus.LOST)
            status, outcome = _CHILD_STATES[state]
            self._client.set_tag(run.info.run_id, OUTCOME, outcome)
            self._client.set_terminated(run.info.run_id, status)

    def _children(self, wanted: str) -> list[Any]:
        experiment = self._client.get_run(self.run_id).info.experiment_id
        return list(self._client.search_runs([experiment], wanted, max_results=_MOST_RUNS))


def move_studies(url: str, experiments: Collection[str], tracking_uri: str, root: Path) -> None:
    """Let studies speak in the store to which runs of theirs were moved.

    Args:
        url: of the studies' storage.
        experiments: under which the moved runs are tracked; those of no study are left out.
        root: where a store in a database keeps an experiment's files.

    Raises:
        WorkbenchError: the storage does not answer.
    """
    storage = StudyStorage(url)
    for name in study_names(storage):
        if run_experiment(name) in experiments:
            StudyRun(
                StudyTrials(storage, load_spec(storage, exact_name(name))), tracking_uri, root
            ).end()


def best_trials(spec: StudySpec, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The best complete trial; of several objectives those that no other one beats in all."""
    signs = [1.0 if o.direction == "minimize" else -1.0 for o in spec.objectives]
    costs = [
        ([sign * value for sign, value in zip(signs, trial.values, strict=True)], trial)
        for trial in trials
        if status_of(trial) is TrialStatus.COMPLETE
    ]
    if spec.objective is not None:
        return [min(costs, key=lambda pair: pair[0])[1]] if costs else []
    front = [
        (cost, trial)
        for cost, trial in costs
        if not any(
            other != cost and all(a <= b for a, b in zip(other, cost, strict=True))
            for other, _ in costs
        )
    ]
    return [trial for _, trial in sorted(front, key=lambda pair: pair[0])]


def parameters(spec: StudySpec) -> dict[str, str]:
    """A study's space, settings and base as the parameters of its run."""
    settings = spec.settings.model_dump(mode="json") | {"pruner": spec.pruner}
    return {
        **{f"space.{key}": str(dimension) for key, dimension in spec.space.items()},
        **{f"study.{key}": _plain(value) for key, value in settings.items()},
        **{key: text for key, text in spec.base.flat().items() if key not in spec.space},
    }


def describe(spec: StudySpec, trials: Sequence[FrozenTrial]) -> str:
    """The study in Markdown: what it searches, and the best trial so far."""
    aims = ", ".join(objective.aim for objective in spec.objectives)
    best = best_trials(spec, trials)[:1] if spec.objective is not None else []
    params = best[0].params if best else {}
    lines = [
        f"**Study {spec.name}** of {spec.experiment} on `{spec.base.teacher}`: {aims}. Sampler "
        f"{spec.settings.sampler}, pruner {spec.pruner}, {len(spec.settings.seeds)} seed(s) a "
        "trial.\n",
        "| setting | searched in |" + (" best |" if trials else ""),
        "|---|---|" + ("---|" if trials else ""),
    ]
    for key, dimension in spec.space.items():
        cell = f" {params.get(key, '-')} |" if trials else ""
        lines.append(f"| {key} | {str(dimension).replace('|', '/')} |{cell}")
    if best:
        (score,) = spec.scores(best[0]).values()
        lines.append(f"\nBest: trial {number_of(best[0])}, {score:.4g}.")
    return "\n".join(lines)


def history(ended: Sequence[FrozenTrial], spec: StudySpec) -> Iterator[dict[str, float]]:
    """Metrics after each ended trial: its scores, each objective's best, and counts, by state.

    Keys are ``trial/NAME``, ``best/NAME`` and ``trials/STATE``.
    """
    best: dict[str, tuple[float, float]] = {}  # as told, and as measured
    counts: dict[str, float] = {}
    for trial in ended:
        key = f"trials/{status_of(trial)}"
        counts[key] = counts.get(key, 0) + 1
        values: dict[str, float] = {}
        if status_of(trial) is TrialStatus.COMPLETE:
            measured = spec.scores(trial)
            for objective, told in zip(spec.objectives, trial.values, strict=True):
                name = objective.name
                values[f"trial/{name}"] = measured[name]
                if name not in best or objective.better(told, best[name][0]):
                    best[name] = told, measured[name]
        bests = {f"best/{name}": score for name, (_, score) in best.items()}
        yield {**values, **bests, **counts}


def _ended_at(trial: FrozenTrial) -> int:
    at = trial.datetime_complete
    return 0 if at is None else int(at.timestamp() * 1000)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
