"""One loop for every teacher family and every method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from workbench.errors import InterruptedRunError, PrunedRunError, RequestError
from workbench.flow.noise import NoiseSource
from workbench.methods import Networks, make_method
from workbench.metrics import DRIFT_METRICS, info_or_distance
from workbench.teachers.base import VelocityNetwork
from workbench.training.checkpoint import CheckpointError, Stateful, load_modules
from workbench.training.checkpoint_folder import CheckpointFolder
from workbench.training.config import RunConfig
from workbench.training.ema import ema_decay, halflife_at, update_ema
from workbench.training.events import EventKind, Listener, Progress, RunEvent, StopFlag
from workbench.training.parallel import Ranks
from workbench.training.roles import AVERAGE, GENERATOR, Student, build_roles
from workbench.training.stability import REPORTED_ALONE
from workbench.training.state import TrainingState
from workbench.training.throughput import Clock
from workbench.training.update import BatchSource, NonFiniteError, Updater

__all__ = [
    "Engine",
    "Evaluate",
    "InterruptedRunError",
    "NonFiniteError",
    "Student",
    "TrainingState",
]

Evaluate = Callable[[int, VelocityNetwork], Mapping[str, float]]
"""(nimg, averaged generator) -> scores by name; every rank calls it at the same moment.

``evaluation.primary_metric`` of the configuration judges the run, where it names one; else the
first score. Its goal is the registry's (:mod:`workbench.metrics`); an unknown one is a distance.
"""


class Engine:
    """Trains a method's roles against a frozen teacher, from the newest whole checkpoint on.

    Args:
        config: the run.
        student: teacher and starting point; the teacher's weights are not modified.
        ranks: this process among its peers.
        folder: where checkpoints go; None keeps the run in memory.
        listener: hears events, on rank 0 only.
        evaluate: scores the averaged generator when the schedule asks.
        stop: when set, the engine checkpoints and stops before the next iteration.
    """

    def __init__(
        self,
        config: RunConfig,
        student: Student,
        ranks: Ranks,
        folder: Path | None = None,
        listener: Listener | None = None,
        evaluate: Evaluate | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        self.config, self.ranks = config, ranks
        self.listener = (listener if ranks.is_main else None) or Listener()
        if config.training.stability.rollback and folder is None:
            raise RequestError(
                "training.stability.rollback needs a folder for checkpoints to return to."
            )
        self.evaluate = evaluate
        self.noise = NoiseSource(config.seed)
        self.method = make_method(config.method, config.generator)
        if self.method.learns_from_pairs and not student.pairs:
            raise RequestError(
                f"method {config.method.name!r} learns from image-text pairs, and there are none."
            )
        if student.uncond is None:
            self.method.refuse_guidance()
        roles = build_roles(student, config, self.method, ranks)
        uncond = student.uncond.to(ranks.device) if student.uncond else None
        self.networks = Networks(roles.teacher, roles.trained, uncond, roles.heads)
        self.average = roles.average
        batches = BatchSource.of(student, config, self.noise, ranks)
        self.updater = Updater(config.training, self.networks, batches)
        self.optimizers = self.updater.optimizers
        self.checkpoints = CheckpointFolder(
            folder,
            f"{config.recipe_fingerprint()}/{student.fingerprint}",
            ranks,
            self.listener,
            config.schedule.keep_checkpoints,
            config.training.stability.rollback,
        )
        self.state = TrainingState()
        self.stop = stop or StopFlag()
        self._clock = Clock()
        self._counted = 0  # network evaluations of this process, forward and backward
        self._trouble: list[RunEvent] = []

    def train(self) -> TrainingState:
        """Run to the end of the budget; returns the final state.

        Raises:
            InterruptedRunError: a stop was requested; a checkpoint has been written.
            PrunedRunError: the listener wanted the run to end after an evaluation; likewise.
            NonFiniteError: see ``training.max_nonfinite``.
            CheckpointError: the last checkpoint could not be written.
        """
        resumed = self.resume()
        self.listener.on_start(self._progress())
        self.checkpoints.tell_sizes(self.state.nimg, self._stateful())
        try:
            if not resumed:
                self._checkpoint(best=self._evaluate())
            while self.state.nimg < self.config.total_nimg:
                if self.ranks.any(self.stop.requested):
                    self._checkpoint(must=True)
                    raise InterruptedRunError(
                        f"Stopped at {self.state.nimg / 1000:g} kimg; the checkpoint is written. "
                        "The same command continues."
                    )
                self._iterate()
                self._conclude()
        finally:
            self.checkpoints.finish()
        return self.state

    def _conclude(self) -> None:
        """After an iteration: log, evaluate, answer to trouble and checkpoint, as is due.

        A checkpoint comes last, so that a resume has nothing to make up for.
        """
        schedule = self.config.schedule
        if self._due(schedule.log_kimg):
            self._log()
        rolled_back = self._respond()
        evaluated = self._due(schedule.evaluate_kimg)
        improved = self._evaluate() if evaluated else False
        if self._respond(may_roll_back=not rolled_back):
            rolled_back = True
            # What is measured last is what the run ends with.
            improved = self._finished() and self._evaluate(watched=False)
        pruned = evaluated and not self._finished() and self._wants_end()
        must = pruned or rolled_back or self._finished()
        whole = must or self._due(schedule.checkpoint_kimg)
        if whole or improved:
            self._checkpoint(must=must, whole=whole, best=improved)
        self.checkpoints.settle()
        self.listener.on_iteration(self._progress())
        if pruned:
            raise PrunedRunError(f"Ended early at {self.state.nimg / 1000:g} kimg.")

    def resume(self) -> bool:
        """Restore the newest whole checkpoint; False if there is none.

        Raises:
            RequestError: it was made by another recipe or from another teacher.
        """
        found = self.checkpoints.newest(self.state.nimg)
        if found is None:
            return False
        self.state = self.checkpoints.restore(found, self._stateful())
        self._scale_rates()
        return True

    def load_best(self) -> bool:
        """Make the average that of the best evaluation; False if it is not kept.

        For looking back at the end: training does not go on from here.
        """
        best = self.state.best_nimg
        path = None if best is None else self.checkpoints.average_at(best)
        if path is None:
            return False
        unread = False
        try:
            load_modules(path, {AVERAGE: self.average})
        except CheckpointError:
            unread = True
        return not self.ranks.any(unread)

    def _iterate(self) -> None:
        """One optimiser step of every phase, each on newly generated samples."""
        self._clock.start()
        iteration = self.state.nimg // self.config.training.batch_size
        evaluations = self.noise.integer("evaluations", iteration, self.config.generator.steps)
        torch.manual_seed(abs(hash((self.config.seed, iteration, self.ranks.rank))))
        for phase in self.method.phases(self.state.nimg):
            update = self.updater.step(phase, self.state.nimg, evaluations)
            if not update.finite:
                self._skip(phase.label, update.metrics)
                continue
            self.state.stability.hear_skip(self.state.nimg, phase.label, "")
            self.state.skipped_in_a_row[phase.label] = 0
            self.state.add(update.metrics)
            if GENERATOR in phase.roles:
                update_ema(self.average, self.networks.generator, self._ema_decay())
        self.state.nimg += self.config.training.batch_size
        counts = self._evaluation_counts()
        self.state.seconds += self._clock.stop(self.config.training.batch_size, *counts)
        self.state.evaluations += sum(counts) - self._counted
        self._counted = sum(counts)

    def _ema_decay(self) -> float:
        settings = self.config.training
        full, rampup = settings.ema_halflife_kimg * 1000, settings.ema_rampup
        halflife = halflife_at(self.state.nimg, full, rampup)
        return ema_decay(settings.batch_size, halflife)

    def _skip(self, phase: str, values: Mapping[str, float]) -> None:
        nimg, self.state.skipped = self.state.nimg, self.state.skipped + 1
        row = self.state.skipped_in_a_row.get(phase, 0) + 1
        self.state.skipped_in_a_row[phase] = row
        bad = ", ".join(f"{k} = {v}" for k, v in values.items() if not abs(v) < float("inf"))
        text = f"Skipped an update of {phase}: {bad}."
        if begun := self.state.stability.hear_skip(nimg, phase, text):
            self._record(begun)
        else:
            self.listener.on_warning(nimg, text)
        if row < self.config.training.max_nonfinite:
            return
        often = f"{row} updates of {phase} in a row were not finite"
        if not self._can_roll_back():
            raise NonFiniteError(
                f"{often} at {nimg / 1000:g} kimg ({bad}). Weights and checkpoints hold no such "
                "update. Try a smaller training.optimizers.*.lr or training.precision=bf16-mixed."
            )
        self._trouble.append(RunEvent.of(EventKind.NON_FINITE, nimg, f"{often}.", row))

    def _evaluate(self, watched: bool = True) -> bool:
        """Score the averaged generator; whether it is the best so far."""
        if self.evaluate is None:
            return False
        scores = self.ranks.from_main(dict(self.evaluate(self.state.nimg, self.average)))
        values = {info_or_distance(name).key: value for name, value in scores.items()}
        primary = self.config.evaluation.primary_metric or next(
            (name for name in scores if name not in DRIFT_METRICS), None
        )
        score = None if primary is None else scores.get(primary)
        improved = False
        if primary is not None and score is not None:
            improved = self._improves(primary, score)
            if improved:
                self.state.best, self.state.best_nimg = score, self.state.nimg
            if watched:
                self._trouble += self.state.stability.hear_score(self.state.nimg, primary, score)
        if self.state.best is not None and self.state.best_nimg is not None:
            values[f"best/{primary}"] = self.state.best
            values["best/kimg"] = self.state.best_nimg / 1000
        values["perf/train_seconds"] = self.state.seconds
        values["perf/train_evaluations"] = float(self.state.evaluations)
        self.listener.on_metrics(self.state.nimg, values)
        self.state.stability.judge(self.state.nimg)
        return improved

    def _improves(self, primary: str, score: float) -> bool:
        """Whether a score is the best of the run so far."""
        info, best = info_or_distance(primary), self.state.best
        if not math.isfinite(info.badness(score)):
            return False
        return best is None or info.better(score, best)

    def _log(self) -> None:
        means = self.state.take_means()
        stability, settings = self.state.stability, self.config.training.stability
        self._trouble += stability.hear_losses(settings, self.state.nimg, means)
        if self.evaluate is None:
            stability.judge(self.state.nimg)
        means["train/skipped_updates"] = float(self.state.skipped)
        means["perf/kimg"] = self.state.nimg / 1000
        self.listener.on_metrics(self.state.nimg, {**means, **self._clock.read()})

    def _record(self, events: Sequence[RunEvent]) -> None:
        """Keep events with the run, and tell of each."""
        for event in events:
            self.state.stability.events.append(event.as_dict())
            kept = self.state.stability.events
            self.listener.on_events([RunEvent(**values) for values in kept])
            self.listener.on_warning(event.nimg, event.message)

    def _respond(self, may_roll_back: bool = True) -> bool:
        """Record what went wrong; whether the weights are those of a good checkpoint again."""
        trouble, self._trouble = self._trouble, []
        self._record(trouble)
        bad = any(event.kind not in REPORTED_ALONE for event in trouble)
        return bad and may_roll_back and self._can_roll_back() and self._roll_back()

    def _can_roll_back(self) -> bool:
        settings, stability = self.config.training.stability, self.state.stability
        left = settings.rollback and stability.rollbacks < settings.max_rollbacks
        return left and stability.good is not None

    def _roll_back(self) -> bool:
        """Weights, moments and average as they were; images counted go on, rates shrink."""
        state, settings = self.state, self.config.training.stability
        path = self.checkpoints.newest(state.nimg, state.stability.good)
        if path is None:
            state.stability.good = None  # the next trouble that cannot be borne ends the run
            self.listener.on_warning(state.nimg, "No good checkpoint is left to roll back to.")
            return False
        then = self.checkpoints.restore(path, self._stateful())
        state.stability.rolled_back(state.nimg, then.stability)
        state.skipped_in_a_row = {}
        state.sums, state.counts = {}, {}
        count = state.stability.rollbacks
        text = (
            f"Rolled back to the weights of {then.nimg / 1000:g} kimg; learning rates are now "
            f"{self._scale_rates():g} times the configured ones (roll-back {count} of "
            f"{settings.max_rollbacks})."
        )
        self._record([RunEvent.of(EventKind.ROLLBACK, state.nimg, text, count)])
        return True

    def _scale_rates(self) -> float:
        """Learning rates after the roll-backs so far; returns their factor."""
        factor = self.config.training.stability.lr_factor**self.state.stability.rollbacks
        self.updater.scale_rates(factor)
        return factor

    def _checkpoint(self, must: bool = False, whole: bool = True, best: bool = False) -> None:
        self.checkpoints.write(self.state, self._stateful(), must=must, whole=whole, best=best)

    def _stateful(self) -> Stateful:
        modules = {**self.networks.trained, **self.networks.heads, AVERAGE: self.average}
        return Stateful(modules, dict(self.optimizers))

    def _due(self, every_kimg: float) -> bool:
        """Whether the last batch crossed a multiple of the interval, or the end."""
        every, nimg = every_kimg * 1000, self.state.nimg
        return self._finished() or nimg // every > (nimg - self.config.training.batch_size) // every

    def _wants_end(self) -> bool:
        return self.ranks.any(self.listener.wants_end())

    def _finished(self) -> bool:
        return self.state.nimg >= self.config.total_nimg

    def _progress(self) -> Progress:
        return Progress(self.state.nimg, self.config.total_nimg, self._clock.images_per_s)

    def _evaluation_counts(self) -> tuple[int, int]:
        """Network evaluations so far, forward and backward, on all ranks, which do equal work."""
        networks = (self.networks.teacher, *self.networks.trained.values())
        forward = sum(network.evaluations for network in networks)
        backward = sum(network.backward_evaluations for network in networks)
        return self.ranks.world * forward, self.ranks.world * backward
