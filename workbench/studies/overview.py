"""A study at a glance: its trials' states, the best ones, what is running and how long it takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from workbench.studies.listener import PROGRESS
from workbench.studies.parent import best_ticket
from workbench.studies.queue import (
    ERROR,
    OPEN_STATES,
    REFUSAL,
    WORKER,
    Ticket,
    TicketState,
    grace_of,
)
from workbench.studies.space import Value
from workbench.studies.spec import StudySpec
from workbench.studies.trial import RUNS

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialView:
    """A trial as people see it. Times in seconds; ``left`` is None while no pace is known.

    Attributes:
        values: by objective, as measured; empty until it is complete.
        curve: the reports by which it is judged, in order, as Optuna was told them.
        silent: seconds since its worker last wrote how far it is; None if it never did.
        error: why it failed; of a waiting one, why the last worker could not run it.
    """

    number: int
    state: str
    values: Mapping[str, float]
    params: Mapping[str, Value]
    attempts: int
    worker: str | None
    nimg: int
    total_nimg: int | None
    curve: tuple[float, ...]
    left: float | None
    silent: float | None
    error: str | None
    runs: tuple[str, ...]


@dataclass(frozen=True)
class StudyView:
    """A study's trials, and what follows from them.

    Attributes:
        objectives: name -> which way it improves.
        best: of one objective the best trial, of several the Pareto front; best first.
        history: the first objective's value of each complete trial, in the order of their ends.
        refused: waiting trials that a worker could not run where it is.
        workers: those that run a trial and were heard of within their own grace.
        left: seconds to the end with as many workers as there are now.
    """

    name: str
    experiment: str
    objectives: Mapping[str, str]
    sampler: str
    pruner: str
    counts: Mapping[str, int]
    best: tuple[TrialView, ...]
    running: tuple[TrialView, ...]
    failed: tuple[TrialView, ...]
    refused: tuple[TrialView, ...]
    history: tuple[float, ...]
    workers: tuple[str, ...]
    left: float | None

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return self.total - sum(self.counts[state] for state in OPEN_STATES)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "total": self.total, "ended": self.ended}


def view(spec: StudySpec, tickets: Sequence[Ticket]) -> StudyView:
    """The study as it stands."""
    now = time.time()
    by_state: dict[TicketState, list[Ticket]] = {state: [] for state in TicketState}
    for ticket in tickets:
        by_state[ticket.state].append(ticket)
    complete = sorted(by_state[TicketState.COMPLETE], key=lambda t: _ended_at(t.trial))
    running = [(trial_view(spec, t, now), t) for t in by_state[TicketState.RUNNING]]
    workers = {
        shown.worker
        for shown, t in running
        if shown.silent is None or shown.silent < grace_of(t.trial, spec.settings)
    }
    waiting = (trial_view(spec, ticket, now) for ticket in by_state[TicketState.WAITING])
    gone = by_state[TicketState.FAILED] + by_state[TicketState.LOST]
    return StudyView(
        name=spec.name,
        experiment=spec.experiment,
        objectives={o.name: o.info.goal.value for o in spec.objectives},
        sampler=spec.settings.sampler,
        pruner=spec.pruner,
        counts={state.value: len(found) for state, found in by_state.items()},
        best=tuple(trial_view(spec, ticket, now) for ticket in best_tickets(spec, tickets)),
        running=tuple(shown for shown, _ in running),
        failed=tuple(trial_view(spec, ticket, now) for ticket in gone),
        refused=tuple(trial for trial in waiting if trial.error is not None),
        history=tuple(spec.objectives[0].score(ticket.trial, 0) for ticket in complete),
        workers=tuple(sorted(worker for worker in workers if worker is not None)),
        left=_left(tickets, max(1, len(workers)), by_state),
    )


def best_tickets(spec: StudySpec, tickets: Sequence[Ticket]) -> list[Ticket]:
    """The best complete trial; of several objectives those that no other one beats in all."""
    if spec.objective is not None:
        best = best_ticket(list(tickets), spec.objective)
        return [] if best is None else [best]
    complete = [ticket for ticket in tickets if ticket.state is TicketState.COMPLETE]
    signs = [1.0 if o.direction == "minimize" else -1.0 for o in spec.objectives]
    costs = [
        [s * v for s, v in zip(signs, ticket.trial.values, strict=True)] for ticket in complete
    ]
    front = [
        (cost, ticket)
        for cost, ticket in zip(costs, complete, strict=True)
        if not any(
            other != cost and all(a <= b for a, b in zip(other, cost, strict=True))
            for other in costs
        )
    ]
    return [ticket for _, ticket in sorted(front, key=lambda pair: pair[0])]


def trial_view(spec: StudySpec, ticket: Ticket, now: float) -> TrialView:
    """A ticket's present attempt; ``now`` in seconds since 1970."""
    trial = ticket.trial
    attributes = trial.user_attrs
    progress = attributes.get(PROGRESS, {})
    is_scored = ticket.state is TicketState.COMPLETE
    rate = float(progress.get("images_per_s", 0.0))
    left = silent = None
    if ticket.state is TicketState.RUNNING and progress:
        silent = max(0.0, now - progress["at"])
    if ticket.state is TicketState.RUNNING and rate > 0:
        runs = progress["runs"] - progress["run"]
        left = (progress["total_nimg"] * runs - progress["nimg"]) / rate
    return TrialView(
        number=ticket.number,
        state=ticket.state.value,
        values=spec.scores(trial) if is_scored else {},
        params=dict(trial.params),
        attempts=ticket.attempts,
        worker=attributes.get(WORKER),
        nimg=int(progress.get("nimg", 0)),
        total_nimg=progress.get("total_nimg"),
        curve=tuple(value for _, value in sorted(trial.intermediate_values.items())),
        left=left,
        silent=silent,
        error=_refusal(ticket) or attributes.get(ERROR),
        runs=tuple(attributes.get(RUNS, ())),
    )


def _refusal(ticket: Ticket) -> str | None:
    refusal = ticket.trial.user_attrs.get(REFUSAL)
    if refusal is None or ticket.state is not TicketState.WAITING:
        return None
    return f"{refusal['worker']} could not run it: {refusal['reason']}"


def _left(
    tickets: Sequence[Ticket], workers: int, by_state: Mapping[TicketState, Sequence[Ticket]]
) -> float | None:
    """By the mean time of the trials that have ended, pruned ones included."""
    spans = [
        ticket.trial.duration.total_seconds()
        for ticket in tickets
        if ticket.state in (TicketState.COMPLETE, TicketState.PRUNED) and ticket.trial.duration
    ]
    open_ = sum(len(by_state[state]) for state in OPEN_STATES)
    if not open_:
        return 0.0
    # A running trial is half done, on average.
    work = len(by_state[TicketState.WAITING]) + len(by_state[TicketState.RUNNING]) / 2
    return statistics.fmean(spans) * work / workers if spans else None


def _ended_at(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0
