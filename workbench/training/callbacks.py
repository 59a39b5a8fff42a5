"""What a run does between its iterations: one class for each concern, called in order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workbench.errors import PrunedRunError
from workbench.metrics import DRIFT_METRICS, info_or_distance
from workbench.training.events import EventKind, RunEvent
from workbench.training.stability import REPORTED_ALONE

if TYPE_CHECKING:
    from workbench.training.trainer import Evaluate, Trainer


class Callback:
    """Called after every iteration, on every rank; the methods do nothing by default."""

    def on_step(self, trainer: Trainer) -> None:
        """The iteration is over."""

    def on_step_end(self, trainer: Trainer) -> None:
        """Called after every callback's :meth:`on_step` and the listener; may end the run."""


class Logging(Callback):
    """Logs the mean of every metric over ``schedule.log_kimg``, and notices losses that blow up."""

    def on_step(self, trainer: Trainer) -> None:
        if not trainer.due(trainer.config.schedule.log_kimg):
            return
        trainer.read_updates()
        state, settings = trainer.state, trainer.config.training.stability
        means = state.take_means()
        trainer.trouble += state.stability.observe_losses(settings, state.nimg, means)
        if not trainer.evaluation.measures:
            state.stability.judge(state.nimg)
        means["train/skipped_updates"] = float(state.skipped)
        means["perf/kimg"] = state.nimg / 1000
        trainer.listener.on_metrics(state.nimg, {**means, **trainer.clock.read()})


class Evaluation(Callback):
    """Scores of the averaged generator, every ``schedule.evaluate_kimg``.

    Attributes:
        just_done: whether the last iteration ended with one.
        improved: whether it was the best so far.
    """

    def __init__(self, score: Evaluate | None) -> None:
        self._score = score
        self.just_done = self.improved = False
        self._best_before: tuple[float | None, int | None] = (None, None)

    @property
    def measures(self) -> bool:
        return self._score is not None

    def on_step(self, trainer: Trainer) -> None:
        self.just_done = trainer.due(trainer.config.schedule.evaluate_kimg)
        self.improved = self.just_done and self.evaluate(trainer)

    def evaluate(self, trainer: Trainer, watched: bool = True) -> bool:
        """Score now; returns whether the score is the best so far.

        Args:
            watched: whether a bad score may cause a roll-back.
        """
        if self._score is None:
            return False
        trainer.read_updates()
        state, listener = trainer.state, trainer.listener
        scores = trainer.ranks.broadcast(dict(self._score(state.nimg, trainer.average)))
        values = {info_or_distance(name).key: value for name, value in scores.items()}
        primary = trainer.config.evaluation.primary_metric or next(
            (name for name in scores if name not in DRIFT_METRICS), None
        )
        score = None if primary is None else scores.get(primary)
        improved = False
        if primary is not None and score is not None:
            improved = _improves(primary, score, state.best)
            self._best_before = state.best, state.best_nimg
            if improved:
                state.best, state.best_nimg = score, state.nimg
            if watched:
                trainer.trouble += state.stability.observe_score(state.nimg, primary, score)
        if state.best is not None and state.best_nimg is not None:
            values[f"best/{primary}"] = state.best
            values["best/kimg"] = state.best_nimg / 1000
        values["perf/train_seconds"] = state.seconds
        values["perf/train_evaluations"] = float(state.evaluations)
        listener.on_metrics(state.nimg, values)
        state.stability.judge(state.nimg)
        return improved

    def take_back(self, trainer: Trainer) -> None:
        """Forget that the last evaluation was the best, because its weights are discarded."""
        if self.improved:
            trainer.state.best, trainer.state.best_nimg = self._best_before
        self.improved = False


def _improves(metric: str, score: float, best: float | None) -> bool:
    info = info_or_distance(metric)
    return math.isfinite(info.badness(score)) and (best is None or info.better(score, best))


class Rollback(Callback):
    """Records what went wrong and, if the settings allow it, returns to a good checkpoint.

    Attributes:
        rolled_back: whether the last iteration ended with one.
    """

    rolled_back = False

    def on_step(self, trainer: Trainer) -> None:
        if trainer.trouble or trainer.due(trainer.config.schedule.checkpoint_kimg):
            trainer.read_updates()  # a checkpoint holds no trouble that has not been answered
        trouble, trainer.trouble = trainer.trouble, []
        trainer.record(trouble)
        bad = any(event.kind not in REPORTED_ALONE for event in trouble)
        self.rolled_back = bad and self.can_roll_back(trainer) and self._roll_back(trainer)
        if self.rolled_back and trainer.finished:
            # What is measured last is what the run ends with.
            trainer.evaluation.improved = trainer.evaluation.evaluate(trainer, watched=False)

    def can_roll_back(self, trainer: Trainer) -> bool:
        """Whether the settings allow a roll-back and there is a checkpoint to return to."""
        settings, stability = trainer.config.training.stability, trainer.state.stability
        left = settings.rollback and stability.rollbacks < settings.max_rollbacks
        return left and stability.good is not None

    def _roll_back(self, trainer: Trainer) -> bool:
        """Restore weights, moments and average; the image count continues and rates shrink."""
        state, settings = trainer.state, trainer.config.training.stability
        path = trainer.checkpoints.newest(state.nimg, state.stability.good)
        if path is None:
            state.stability.good = None  # the next trouble that cannot be borne ends the run
            trainer.listener.on_warning(state.nimg, "No good checkpoint is left to roll back to.")
            return False
        trainer.read_updates()  # those of the weights left behind: nothing answers them any more
        trainer.trouble = []
        trainer.evaluation.take_back(trainer)
        then = trainer.checkpoints.restore(path, trainer.stateful())
        state.stability.rolled_back(state.nimg, then.stability)
        state.skipped_in_a_row = {}
        state.sums, state.counts = {}, {}
        count = state.stability.rollbacks
        text = (
            f"Rolled back to the weights of {then.nimg / 1000:g} kimg; learning rates are now "
            f"{trainer.scale_rates():g} times the configured ones (roll-back {count} of "
            f"{settings.max_rollbacks})."
        )
        trainer.record([RunEvent.of(EventKind.ROLLBACK, state.nimg, text, count)])
        return True


class Pruning(Callback):
    """Ends a run early if the listener asks for it after an evaluation."""

    wanted = False

    def on_step(self, trainer: Trainer) -> None:
        asked = trainer.evaluation.just_done and not trainer.finished
        self.wanted = asked and trainer.ranks.any(trainer.listener.wants_end())

    def on_step_end(self, trainer: Trainer) -> None:
        if self.wanted:
            raise PrunedRunError(f"Ended early at {trainer.state.nimg / 1000:g} kimg.")


class Checkpoints(Callback):
    """Writes what a resume needs, every ``schedule.checkpoint_kimg`` and after a roll-back.

    Called last, so that a resume repeats nothing.
    """

    def on_step(self, trainer: Trainer) -> None:
        must = trainer.rollback.rolled_back or trainer.pruning.wanted or trainer.finished
        whole = must or trainer.due(trainer.config.schedule.checkpoint_kimg)
        best = trainer.evaluation.improved
        if whole or best:
            self.write(trainer, must=must, whole=whole, best=best)
        trainer.checkpoints.settle()

    def write(
        self, trainer: Trainer, must: bool = False, whole: bool = True, best: bool = False
    ) -> None:
        """Begin to write a checkpoint; one that ``must`` be written exists on return.

        Args:
            whole: all that a resume needs.
            best: the average alone, as the best so far.

        Raises:
            CheckpointError: it ``must`` be written, and could not.
        """
        trainer.read_updates()
        state, stateful = trainer.state, trainer.stateful()
        trainer.checkpoints.write(state, stateful, must=must, whole=whole, best=best)
