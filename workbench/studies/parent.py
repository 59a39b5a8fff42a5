"""A study in MLflow: one run that is the parent of every trial's runs, in an experiment of its own.

Any worker may speak for the study, one at a time. What goes wrong here is said and never more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.runs.state import OUTCOME, RunState
from workbench.runs.tracking import RUN_KIND
from workbench.studies.objectives import Objective
from workbench.studies.queue import OPEN_STATES, Ticket, TicketState, TrialQueue
from workbench.studies.spec import StudySpec
from workbench.studies.storage import StudyStorage
from workbench.tracking import KIND, environment_tags, redact
from workbench.tracking.store import get_or_create_experiment, open_store, summary

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LOG = logging.getLogger(__name__)

STUDY_KIND = "study"
"""Tag ``kind`` of a study's own run, beside runs and plans."""

PARENT_TAG = "mlflow.parentRunId"

_TOLD = "mlflow_told"  # the study's user attribute, for each run of it: which trials it heard of
_CHILD_STATES: Mapping[TicketState, tuple[str, RunState]] = {
    TicketState.COMPLETE: ("KILLED", RunState.INTERRUPTED),
    TicketState.PRUNED: ("KILLED", RunState.PRUNED),
    TicketState.FAILED: ("FAILED", RunState.FAILED),
    TicketState.LOST: ("FAILED", RunState.FAILED),
    TicketState.WAITING: ("KILLED", RunState.INTERRUPTED),
}
"""What a run that still claims to be running truly is once nobody runs its trial. Beside a complete
one it is the first half of a trial that another machine finished in a run of its own."""


class StudyRun:
    """The study's run in one store.

    Args:
        artifact_root: of a store in a database; a server decides by itself.
    """

    def __init__(self, queue: TrialQueue, tracking_uri: str, artifact_root: Path) -> None:
        self.queue, self.uri, self.artifact_root = queue, tracking_uri, artifact_root
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

        def tell() -> None:
            self._begin()
            self._tell()

        self._speak(tell)

    def end(self) -> None:
        """Tell the rest; if nobody works any more, the study and its trials get their states."""
        self._speak(self._end)

    def add_files(self, files: Mapping[Path, str]) -> None:
        """Keep files with the run, each in a folder; a store without the run gets none."""

        def add() -> None:
            for file, folder in files.items():
                self._client.log_artifact(self.run_id, str(file), folder)

        self._speak(add, create=False)

    def _speak(self, action: Callable[[], None], *, create: bool = True) -> None:
        """Do something in the store, in one process at a time; whatever it raises ends here."""
        storage: StudyStorage = self.queue.storage
        try:
            if self._client is None:
                self._client = open_store(self.uri, self.artifact_root)
            with storage.lock(f"tracking/{self.queue.spec.name}") as still_held:
                if self.run_id is None:
                    self.run_id = self._find()
                if self.run_id is None and not create:
                    name = self.queue.spec.name
                    LOG.warning("%s has no run of the study %s.", redact(self.uri), name)
                    return
                still_held()  # MLflow does not know of this lock
                if self.run_id is None:
                    self.run_id = self._create()
                    self._adopt()
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
        self._tell()
        tickets = self.queue.tickets()
        if any(ticket.state is TicketState.RUNNING for ticket in tickets):
            return
        self._settle(tickets)
        status, outcome = _ending(tickets)
        note = describe(self.queue.spec, tickets)
        for key, value in {OUTCOME: str(outcome), "mlflow.note.content": note}.items():
            self._client.set_tag(self.run_id, key, value)
        self._client.set_terminated(self.run_id, status)

    def _find(self) -> str | None:
        """The study's run in this store: other stores may have one too."""
        spec = self.queue.spec
        experiment = self._client.get_experiment_by_name(spec.run_experiment)
        if experiment is None:
            return None
        wanted = f"tags.study = '{spec.name}' and tags.{KIND} = '{STUDY_KIND}'"
        found = self._client.search_runs(
            [experiment.experiment_id], wanted, order_by=["attributes.start_time"], max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _create(self) -> str:
        spec = self.queue.spec
        experiment = get_or_create_experiment(self._client, spec.run_experiment, self.artifact_root)
        tags = {
            KIND: STUDY_KIND,
            "study": spec.name,
            "experiment": spec.run_experiment,
            "mlflow.note.content": describe(spec, []),
            **environment_tags(),
        }
        run_id = str(
            self._client.create_run(
                experiment, tags=tags, run_name=f"study {spec.name}"
            ).info.run_id
        )
        from mlflow.entities import Param

        for part in _parts(parameters(spec), 100):
            self._client.log_batch(run_id, params=[Param(*item) for item in part.items()])
        return run_id

    def _adopt(self) -> None:
        """Trials that began while the store did not answer have no parent yet."""
        ours = f"tags.study = '{self.queue.spec.name}' and tags.{KIND} = '{RUN_KIND}'"
        for run in self._children(ours):
            if PARENT_TAG not in run.data.tags:
                self._client.set_tag(run.info.run_id, PARENT_TAG, self.run_id)

    def _tell(self) -> None:
        from mlflow.entities import Metric, RunTag

        spec, study = self.queue.spec, self.queue.study
        told: list[int] = study.user_attrs.get(f"{_TOLD}/{self.run_id}", [])
        tickets = self.queue.tickets()
        ended = {t.number: t for t in tickets if t.state not in OPEN_STATES}
        # In the order of their ends; one that was told before stays where it was.
        new = sorted(set(ended) - set(told), key=lambda number: _ended_at(ended[number].trial))
        order = [number for number in told if number in ended] + new
        metrics = [
            Metric(key, value, at, step)
            for step, at, values in _history(order, ended, spec)
            if order[step - 1] in new
            for key, value in values.items()
        ]
        counts = {f"trials.{state}": 0 for state in TicketState}
        for ticket in tickets:
            counts[f"trials.{ticket.state}"] += 1
        tags = {key: str(value) for key, value in counts.items()}
        if spec.objective is not None and (best := best_ticket(tickets, spec.objective)):
            tags |= {"best.trial": str(best.number), "best.point": json.dumps(best.trial.params)}
        for start in range(0, len(metrics), 1000):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
        self._client.log_batch(self.run_id, tags=[RunTag(*item) for item in tags.items()])
        study.set_user_attr(f"{_TOLD}/{self.run_id}", order)

    def _settle(self, tickets: list[Ticket]) -> None:
        """Runs whose worker was killed say RUNNING for ever, unless somebody corrects them."""
        states = {str(ticket.number): ticket.state for ticket in tickets}
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}' and attributes.status = 'RUNNING'"
        for run in self._children(wanted):
            state = states.get(run.data.tags.get("trial", ""), TicketState.LOST)
            status, outcome = _CHILD_STATES[state]
            self._client.set_tag(run.info.run_id, OUTCOME, outcome)
            self._client.set_terminated(run.info.run_id, status)

    def _children(self, wanted: str) -> Iterator[Any]:
        experiment = self._client.get_run(self.run_id).info.experiment_id
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment], wanted, max_results=500, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def best_ticket(tickets: list[Ticket], objective: Objective) -> Ticket | None:
    """The complete trial with the best value of a study of one objective."""
    best: Ticket | None = None
    for ticket in tickets:
        if ticket.state is not TicketState.COMPLETE:
            continue
        value = float(ticket.trial.values[0])
        if best is None or objective.better(value, float(best.trial.values[0])):
            best = ticket
    return best


def parameters(spec: StudySpec) -> dict[str, str]:
    """A study's space, settings and base as the parameters of its run."""
    settings = spec.settings.model_dump(mode="json") | {"pruner": spec.pruner}
    return {
        **{f"space.{key}": str(dimension) for key, dimension in spec.space.items()},
        **{f"study.{key}": _plain(value) for key, value in settings.items()},
        **{key: text for key, text in spec.base.flat().items() if key not in spec.space},
    }


def describe(spec: StudySpec, tickets: list[Ticket]) -> str:
    """The study in Markdown: what it searches, and the best trial so far."""
    aims = ", ".join(objective.aim for objective in spec.objectives)
    lines = [
        f"**Study {spec.name}** of {spec.experiment} on `{spec.base.teacher}`: {aims}. Sampler "
        f"{spec.settings.sampler}, pruner {spec.pruner}, {len(spec.settings.seeds)} seed(s) a "
        "trial.\n",
        "| setting | searched in |" + (" best |" if tickets else ""),
        "|---|---|" + ("---|" if tickets else ""),
    ]
    best = best_ticket(tickets, spec.objective) if spec.objective else None
    params = best.trial.params if best else {}
    for key, dimension in spec.space.items():
        cell = f" {params.get(key, '-')} |" if tickets else ""
        lines.append(f"| {key} | {str(dimension).replace('|', '/')} |{cell}")
    if best is not None:
        (score,) = spec.scores(best.trial).values()
        lines.append(f"\nBest: trial {best.number}, {score:.4g}.")
    return "\n".join(lines)


def _ending(tickets: list[Ticket]) -> tuple[str, RunState]:
    states = {ticket.state for ticket in tickets}
    if TicketState.WAITING in states:
        return "KILLED", RunState.INTERRUPTED
    if tickets and states.isdisjoint({TicketState.COMPLETE, TicketState.PRUNED}):
        return "FAILED", RunState.FAILED
    return "FINISHED", RunState.FINISHED


def _history(
    order: list[int], ended: Mapping[int, Ticket], spec: StudySpec
) -> Iterator[tuple[int, int, dict[str, float]]]:
    """(trials ended, ms since 1970, metrics then): each objective's best, and counts."""
    best: dict[str, tuple[float, float]] = {}  # as told, and as measured
    counts: dict[str, float] = {}
    for step, number in enumerate(order, 1):
        ticket = ended[number]
        counts[f"trials/{ticket.state}"] = counts.get(f"trials/{ticket.state}", 0) + 1
        values: dict[str, float] = {}
        if ticket.state is TicketState.COMPLETE:
            measured = spec.scores(ticket.trial)
            for objective, told in zip(spec.objectives, ticket.trial.values, strict=True):
                name = objective.name
                values[f"trial/{name}"] = measured[name]
                if name not in best or objective.better(told, best[name][0]):
                    best[name] = told, measured[name]
        bests = {f"best/{name}": score for name, (_, score) in best.items()}
        yield step, _ended_at(ticket.trial), {**values, **bests, **counts}


def _ended_at(trial: FrozenTrial) -> int:
    at = trial.datetime_complete
    return 0 if at is None else int(at.timestamp() * 1000)


def _parts(values: Mapping[str, str], size: int) -> Iterator[dict[str, str]]:
    items = list(values.items())
    for start in range(0, len(items), size):
        yield dict(items[start : start + size])


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
