"""One loop for every teacher family and every method; :meth:`Trainer.train_step` is an iteration.

What happens between iterations (logs, evaluation, roll-backs, checkpoints, early ends) is done by
callbacks, in :mod:`workbench.training.callbacks`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from workbench.errors import InterruptedRunError, RequestError, WorkbenchError
from workbench.flow.noise import NoiseSource
from workbench.methods import Networks, Phase, make_method
from workbench.teachers.base import VelocityNetwork
from workbench.training.batches import BatchLoader
from workbench.training.callbacks import (
    Callback,
    Checkpoints,
    Evaluation,
    Logging,
    Pruning,
    Rollback,
)
from workbench.training.checkpoint import CheckpointError, Stateful, load_modules
from workbench.training.checkpoint_folder import CheckpointFolder
from workbench.training.config import RunConfig
from workbench.training.ema import ema_decay, halflife_at, update_ema
from workbench.training.events import EventKind, Listener, Progress, RunEvent, StopFlag
from workbench.training.networks import (
    AVERAGE,
    GENERATOR,
    DistillationInputs,
    adam,
    build_networks,
    sharded_root,
)
from workbench.training.parallel import Ranks, squared_norm, sync_gradients
from workbench.training.state import Clock, TrainingState

Evaluate = Callable[[int, VelocityNetwork], Mapping[str, float]]
"""(nimg, averaged generator) -> scores by name; every rank calls it at the same moment.

``evaluation.primary_metric`` of the configuration judges the run, where it names one; else the
first score. Its goal is the registry's (:mod:`workbench.metrics`); an unknown one is a distance.
"""


class NonFiniteError(WorkbenchError):
    """Too many updates in a row were not finite."""


class Update:
    """The result of a phase's update: means over the global batch, read from the device later.

    Args:
        names: names of the values.
        values: on the device; the last one is how many ranks want to stop.
    """

    def __init__(self, nimg: int, phase: str, names: Sequence[str], values: Tensor) -> None:
        self.nimg, self.phase, self._names = nimg, phase, names
        self.nonfinite = 1.0 - values.isfinite().all().float()  # for the device: 1 or 0
        self._values, self._ready = values.to("cpu", non_blocking=True), None
        if values.is_cuda:
            self._ready = torch.Event("cuda")
            self._ready.record()

    def read(self) -> tuple[dict[str, float], bool]:
        """The metrics, and whether any rank wants to stop; waits until they are there."""
        if self._ready is not None:
            self._ready.synchronize()
        *values, stops = self._values.tolist()
        return dict(zip(self._names, values, strict=True)), stops > 0


class Trainer:
    """Trains a method's roles against a frozen teacher, from the newest whole checkpoint on.

    Args:
        config: the run.
        student: teacher and starting point; the teacher's weights are not modified.
        ranks: this process among its peers.
        folder: where checkpoints go; None keeps the run in memory.
        listener: hears events, on rank 0 only.
        evaluate: scores the averaged generator when the schedule asks.
        stop: when set, the run checkpoints and stops before the next iteration.
    """

    def __init__(
        self,
        config: RunConfig,
        student: DistillationInputs,
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
        self.noise = NoiseSource(config.seed)
        self.method = make_method(config.method, config.generator)
        if self.method.needs_pairs and not student.pairs:
            raise RequestError(
                f"method {config.method.name!r} learns from image-text pairs, and there are none."
            )
        if student.uncond is None:
            self.method.check_no_guidance()
        roles = build_networks(student, config, self.method, ranks)
        uncond = student.uncond.to(ranks.device) if student.uncond else None
        self.networks = Networks(roles.teacher, roles.trained, uncond, roles.heads)
        self.average, self._copies = roles.average, roles.copies
        self.batches = BatchLoader(student, config, self.noise, ranks)
        self.optimizers = {
            name: adam(self.networks.module(name), config.training.optimizers[name])
            for name in (*roles.trained, *roles.heads)
        }
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
        self.clock = Clock()
        self.trouble: list[RunEvent] = []
        self._unread: list[Update] = []
        self._stopping = False
        self._evaluations = (0, 0)  # forward and backward, of this process's training
        self.evaluation = Evaluation(evaluate)
        self.rollback, self.pruning, self._checkpoint = Rollback(), Pruning(), Checkpoints()
        self.callbacks: Sequence[Callback] = (
            Logging(),
            self.evaluation,
            self.rollback,
            self.pruning,
            self._checkpoint,
        )

    def train(self) -> TrainingState:
        """Run to the end of the budget; returns the final state.

        Raises:
            InterruptedRunError: a stop was requested; a checkpoint has been written.
            PrunedRunError: the listener wanted the run to end after an evaluation; likewise.
            NonFiniteError: see ``training.max_nonfinite``.
            CheckpointError: the last checkpoint could not be written.
        """
        resumed = self.resume()
        self.listener.on_start(self.progress())
        self.checkpoints.tell_sizes(self.state.nimg, self.stateful())
        try:
            if not resumed:
                best = self.evaluation.evaluate(self)
                self._checkpoint.write(self, best=best)
            while not self.finished:
                if self._wants_stop():
                    self._checkpoint.write(self, must=True)
                    raise InterruptedRunError(
                        f"Stopped at {self.state.nimg / 1000:g} kimg; the checkpoint is written. "
                        "The same command continues."
                    )
                self.train_step()
                for callback in self.callbacks:
                    callback.on_step(self)
                self.listener.on_iteration(self.progress())
                for callback in self.callbacks:
                    callback.on_step_end(self)
        finally:
            self.checkpoints.finish()
        return self.state

    def train_step(self) -> None:
        """One iteration: an optimizer step of every phase, each on newly generated samples.

        A phase accumulates its gradient over micro-batches, reduced over the ranks at the last
        one; a gradient that is not finite steps nothing. The host waits for nothing here.
        """
        state, batch_size = self.state, self.config.training.batch_size
        self.clock.start()
        before = self.network_evaluations()
        iteration = state.nimg // batch_size
        evaluations = self.noise.integer("evaluations", iteration, self.config.generator.steps)
        # For modules of one's own that draw in their forward: nothing here draws from it.
        torch.manual_seed(abs(hash((self.config.seed, iteration, self.ranks.rank))))
        phases = self.method.phases(state.nimg)
        batches = self.batches.take(state.nimg, evaluations, [phase.draw for phase in phases])
        updates = []
        for phase in phases:
            metrics: dict[str, Tensor] = {}
            with self._training(phase):
                for batch in batches[phase.draw]:
                    self._sync_gradients(phase, on=batch is batches[phase.draw][-1])
                    loss = phase.loss(self.networks, batch)
                    share = batch.count / self.batches.size
                    torch.autograd.backward(loss.value * share)
                    for name, value in loss.metrics.items():
                        metrics[name] = metrics.get(name, 0.0) + share * value
            update = self._reduce(phase, metrics)
            for role in phase.roles:
                self._step(self.optimizers[role], update.nonfinite)
            if GENERATOR in phase.roles:
                update_ema(self.average, self.networks.generator, self._ema_decay())
            updates.append(update)
        state.nimg += batch_size
        self._unread += updates
        self._take_in(all_but=0 if self.ranks.device.type == "cpu" else len(updates))
        self._count(batch_size, before)

    @contextmanager
    def _training(self, phase: Phase) -> Iterator[None]:
        """Gradients for the phase's roles; those it only passes through keep none."""
        for role in phase.roles:
            self.optimizers[role].zero_grad(set_to_none=True)
        for role in phase.frozen:
            self.networks.module(role).requires_grad_(False)
        try:
            yield
        finally:
            for role in phase.frozen:
                self.networks.module(role).requires_grad_(True)

    def _sync_gradients(self, phase: Phase, on: bool) -> None:
        on = on or self.config.training.sync_every_micro_batch
        for role in phase.roles:
            sync_gradients(sharded_root(self.networks.module(role)), on)

    def _reduce(self, phase: Phase, metrics: Mapping[str, Tensor]) -> Update:
        """Metrics, gradient norms, whether all is finite and who stops, in one small collective."""
        device, world = self.ranks.device, self.ranks.world
        squares = [
            squared_norm(self.networks.module(role).parameters(), device) for role in phase.roles
        ]
        # Each of the weights' copies adds its squares once.
        squares = [square * (world / self._copies) for square in squares]
        stop = torch.full((), float(self.stop.requested), device=device)
        mine = [*(value.float() for value in metrics.values()), *squares, stop * world]
        values = self.ranks.sum(torch.stack(mine)) / world
        values[len(metrics) : -1].sqrt_()
        names = (*metrics, *(f"train/{role}_grad_norm" for role in phase.roles))
        return Update(self.state.nimg, phase.label, names, values)

    def _step(self, optimizer: torch.optim.Optimizer, nonfinite: Tensor) -> None:
        """Step, unless the gradient is not finite: Adam's fused kernel looks for itself."""
        optimizer.found_inf = nonfinite  # type: ignore[attr-defined]  # as GradScaler sets it
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _ema_decay(self) -> float:
        settings = self.config.training
        full, rampup = settings.ema_halflife_kimg * 1000, settings.ema_rampup
        halflife = halflife_at(self.state.nimg, full, rampup)
        return ema_decay(settings.batch_size, halflife)

    def read_updates(self, all_but: int = 0) -> None:
        """Take in what came of the updates so far, but the newest ``all_but``.

        On a GPU those are still being computed: waiting for them would leave it without work.
        """
        began = time.perf_counter()
        self._take_in(all_but)
        waited = time.perf_counter() - began
        self.clock.add(waited)
        self.state.seconds += waited

    def _take_in(self, all_but: int) -> None:
        ready = len(self._unread) - all_but
        for update in self._unread[:ready]:
            metrics, stops = update.read()
            self._stopping |= stops
            if not all(math.isfinite(value) for value in metrics.values()):
                self._skipped(update, metrics)
                continue
            self.state.stability.observe_skip(update.nimg, update.phase, "")
            self.state.skipped_in_a_row[update.phase] = 0
            self.state.add(metrics)
        del self._unread[:ready]

    def _skipped(self, update: Update, metrics: Mapping[str, float]) -> None:
        state, phase, nimg = self.state, update.phase, update.nimg
        state.skipped += 1
        row = state.skipped_in_a_row.get(phase, 0) + 1
        state.skipped_in_a_row[phase] = row
        bad = ", ".join(f"{k} = {v}" for k, v in metrics.items() if not abs(v) < float("inf"))
        text = f"Skipped an update of {phase}: {bad}."
        if begun := state.stability.observe_skip(nimg, phase, text):
            self.record(begun)
        else:
            self.listener.on_warning(nimg, text)
        if row < self.config.training.max_nonfinite:
            return
        often = f"{row} updates of {phase} in a row were not finite"
        if not self.rollback.can_roll_back(self):
            raise NonFiniteError(
                f"{often} at {nimg / 1000:g} kimg ({bad}). Weights and checkpoints hold no such "
                "update. Try a smaller training.optimizers.*.lr."
            )
        self.trouble.append(RunEvent.of(EventKind.NON_FINITE, nimg, f"{often}.", row))

    def record(self, events: Sequence[RunEvent]) -> None:
        """Keep events with the run, and tell of each."""
        for event in events:
            self.state.stability.events.append(event.as_dict())
            kept = self.state.stability.events
            self.listener.on_events([RunEvent(**values) for values in kept])
            self.listener.on_warning(event.nimg, event.message)

    def resume(self) -> bool:
        """Restore the newest whole checkpoint; False if there is none.

        Raises:
            RequestError: it was made by another recipe or from another teacher.
        """
        found = self.checkpoints.newest(self.state.nimg)
        if found is None:
            return False
        self.state = self.checkpoints.restore(found, self.stateful())
        self.scale_rates()
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

    def stateful(self) -> Stateful:
        """What a checkpoint holds."""
        modules = {**self.networks.trained, **self.networks.heads, AVERAGE: self.average}
        return Stateful(modules, dict(self.optimizers))

    def scale_rates(self) -> float:
        """Learning rates after the roll-backs so far; returns their factor."""
        factor = self.config.training.stability.lr_factor**self.state.stability.rollbacks
        self.set_rates(factor)
        return factor

    def set_rates(self, factor: float) -> None:
        """Every learning rate becomes ``factor`` times its configured one."""
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = factor * self.config.training.optimizers[name].lr

    def due(self, every_kimg: float) -> bool:
        """Whether the last batch crossed a multiple of the interval, or the end."""
        every, nimg = every_kimg * 1000, self.state.nimg
        return self.finished or nimg // every > (nimg - self.config.training.batch_size) // every

    @property
    def finished(self) -> bool:
        return self.state.nimg >= self.config.total_nimg

    def progress(self) -> Progress:
        return Progress(self.state.nimg, self.config.total_nimg, self.clock.images_per_s)

    def _wants_stop(self) -> bool:
        """On several ranks, known from the last collective; equal on all."""
        return self._stopping or (self.ranks.world == 1 and self.stop.requested)

    def _count(self, images: int, before: tuple[int, int]) -> None:
        """Add an iteration to the clock and the state; what evaluation costs is not in it."""
        spent = [now - then for now, then in zip(self.network_evaluations(), before, strict=True)]
        forward, backward = self._evaluations
        self._evaluations = (forward + spent[0], backward + spent[1])
        self.state.seconds += self.clock.stop(images, *self._evaluations)
        self.state.evaluations += sum(spent)

    def network_evaluations(self) -> tuple[int, int]:
        """Network evaluations so far, forward and backward, on all ranks, which do equal work."""
        networks = (self.networks.teacher, *self.networks.trained.values())
        forward = sum(network.evaluations for network in networks)
        backward = sum(network.backward_evaluations for network in networks)
        return self.ranks.world * forward, self.ranks.world * backward
