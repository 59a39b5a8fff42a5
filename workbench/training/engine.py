"""One loop for every teacher family and every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from workbench.errors import InterruptedRunError, PrunedRunError, RequestError, WorkbenchError
from workbench.flow.noise import NoiseSource
from workbench.methods import Batch, Networks, Phase, make_method
from workbench.teachers.base import VelocityNetwork
from workbench.training.checkpoint import (
    CheckpointError,
    Stateful,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_manifest,
    save_checkpoint,
)
from workbench.training.config import AdamConfig, RunConfig
from workbench.training.ema import ema_decay, update_ema
from workbench.training.events import Listener, Progress, StopFlag
from workbench.training.parallel import Ranks, gradient_norm
from workbench.training.roles import AVERAGE, GENERATOR, Student, build_roles
from workbench.training.streams import PairStream, PromptStream

__all__ = [
    "Engine",
    "Evaluate",
    "InterruptedRunError",
    "NonFiniteError",
    "Student",
    "TrainingState",
]

Evaluate = Callable[[int, VelocityNetwork], Mapping[str, float]]
"""(nimg, averaged generator) -> scores by name; every rank calls it at the same moment."""

BEST_METRIC = "fid"


class NonFiniteError(WorkbenchError):
    """Too many updates in a row were not finite."""


@dataclass
class TrainingState:
    """Everything of a run that is not a tensor. Random numbers are addressed by ``nimg``."""

    nimg: int = 0
    skipped: int = 0
    skipped_in_a_row: dict[str, int] = field(default_factory=dict)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    best: float | None = None
    best_nimg: int | None = None


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
        self.config, self.ranks, self.folder = config, ranks, folder
        self.listener = (listener if ranks.is_main else None) or Listener()
        self.evaluate = evaluate
        self.latent_shape = student.latent_shape
        self.noise = NoiseSource(config.seed)
        self.method = make_method(config.method, config.generator)
        self.local_batch = ranks.share(config.training.batch_size)
        self.prompts = PromptStream(student.prompts, self.noise) if student.prompts else None
        self.pairs = PairStream(student.pairs, self.noise) if student.pairs else None
        roles = build_roles(student, config, self.method, ranks)
        uncond = student.uncond.to(ranks.device) if student.uncond else None
        self.networks = Networks(roles.teacher, roles.trained, uncond, roles.heads)
        self.average = roles.average
        self.optimizers = {
            name: _adam(self.networks.module(name), config.training.optimizers[name])
            for name in (*roles.trained, *roles.heads)
        }
        self.identity = f"{config.recipe_fingerprint()}/{student.fingerprint}"
        self.state = TrainingState()
        self.stop = stop or StopFlag()
        self._clock = _Clock()

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
        if not resumed:
            self._evaluate()
            self._checkpoint()
        schedule = self.config.schedule
        while self.state.nimg < self.config.total_nimg:
            if self.ranks.any(self.stop.requested):
                self._checkpoint(must=True)
                raise InterruptedRunError(
                    f"Stopped at {self.state.nimg / 1000:g} kimg; the checkpoint is written. "
                    "The same command continues."
                )
            self._iterate()
            if self._due(schedule.log_kimg):
                self._log()
            evaluated = self._due(schedule.evaluate_kimg)
            improved = self._evaluate() if evaluated else False
            pruned = evaluated and not self._finished() and self._wants_end()
            if improved or pruned or self._due(schedule.checkpoint_kimg):
                self._checkpoint(must=pruned or self._finished())
            self.listener.on_iteration(self._progress())
            if pruned:
                raise PrunedRunError(f"Ended early at {self.state.nimg / 1000:g} kimg.")
        return self.state

    def resume(self) -> bool:
        """Restore the newest whole checkpoint; False if there is none.

        Raises:
            RequestError: it was made by another recipe or from another teacher.
        """
        found: Path | None = None
        if self.folder is not None and self.ranks.is_main:
            found = latest_checkpoint(
                self.folder, lambda text: self.listener.on_warning(self.state.nimg, text)
            )
        found = self.ranks.from_main(found)
        if found is None:
            return False
        written_by = read_manifest(found)["progress"].get("identity")
        if written_by != self.identity:
            raise RequestError(
                f"The checkpoints in {self.folder} belong to another recipe or teacher, or to "
                f"other prompts ({written_by}, not {self.identity}). Use another folder, or start "
                "afresh."
            )
        progress = load_checkpoint(found, self._stateful())
        self.state = TrainingState(**{k: v for k, v in progress.items() if k != "identity"})
        return True

    def _iterate(self) -> None:
        """One optimiser step of every phase, each on newly generated samples."""
        self._clock.start()
        iteration = self.state.nimg // self.config.training.batch_size
        evaluations = self.noise.integer("evaluations", iteration, self.config.generator.steps)
        torch.manual_seed(abs(hash((self.config.seed, iteration, self.ranks.rank))))
        for phase in self.method.phases(self.state.nimg):
            applied = self._update(phase, evaluations)
            if applied and GENERATOR in phase.roles:
                settings = self.config.training
                decay = ema_decay(settings.batch_size, settings.ema_halflife_kimg * 1000)
                update_ema(self.average, self.networks.generator, decay)
        self.state.nimg += self.config.training.batch_size
        self.state.seconds += self._clock.stop(
            self.config.training.batch_size, *self._evaluation_counts()
        )

    def _update(self, phase: Phase, evaluations: int) -> bool:
        """Accumulate a phase's gradient and step its optimisers, unless it is not finite."""
        optimizers = [self.optimizers[role] for role in phase.roles]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, Tensor] = {}
        with self._training_only(phase.roles):
            for batch in self._micro_batches(evaluations, phase.draw):
                loss = phase.loss(self.networks, batch)
                part = batch.count / self.local_batch
                torch.autograd.backward(loss.value * part)
                for name, value in loss.metrics.items():
                    metrics[name] = metrics.get(name, 0.0) + part * value
        for role in phase.roles:
            norm = gradient_norm(self.networks.module(role).parameters())
            metrics[f"train/{role}_grad_norm"] = norm
        reduced = self.ranks.mean(torch.stack([v.float() for v in metrics.values()])).tolist()
        finite = all(value == value and abs(value) != float("inf") for value in reduced)
        if finite:
            for optimizer in optimizers:
                optimizer.step()
            self.state.skipped_in_a_row[phase.name] = 0
            for name, value in zip(metrics, reduced, strict=True):
                self.state.sums[name] = self.state.sums.get(name, 0.0) + value
                self.state.counts[name] = self.state.counts.get(name, 0) + 1
        else:
            self._skip(phase.name, dict(zip(metrics, reduced, strict=True)))
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        return finite

    def _skip(self, role: str, values: Mapping[str, float]) -> None:
        self.state.skipped += 1
        row = self.state.skipped_in_a_row.get(role, 0) + 1
        self.state.skipped_in_a_row[role] = row
        bad = ", ".join(f"{k} = {v}" for k, v in values.items() if not abs(v) < float("inf"))
        self.listener.on_warning(self.state.nimg, f"Skipped an update of {role}: {bad}.")
        if row >= self.config.training.max_nonfinite:
            raise NonFiniteError(
                f"{row} updates of {role} in a row were not finite at "
                f"{self.state.nimg / 1000:g} kimg ({bad}). Weights and checkpoints hold no such "
                "update. Try a smaller training.optimizers.*.lr or training.precision=bf16-mixed."
            )

    @contextmanager
    def _training_only(self, roles: Sequence[str]) -> Iterator[None]:
        """Gradients for these roles' weights; through the other networks only to their inputs."""
        others = [self.networks.module(name) for name in self.optimizers if name not in roles]
        for network in others:
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in others:
                network.requires_grad_(True)

    def _micro_batches(self, evaluations: int, draw: int) -> Iterator[Batch]:
        first = self.state.nimg + self.ranks.rank * self.local_batch
        size, device = self.config.training.micro_batch_size or self.local_batch, self.ranks.device
        for start in range(first, first + self.local_batch, size):
            count = min(size, first + self.local_batch - start)
            yield Batch(
                start,
                count,
                self.prompts.take(start, count, draw).to(device) if self.prompts else None,
                evaluations,
                self.noise,
                self.latent_shape,
                device,
                self.pairs,
            )

    def _evaluate(self) -> bool:
        """Score the averaged generator; whether it is the best so far."""
        if self.evaluate is None:
            return False
        scores = dict(self.evaluate(self.state.nimg, self.average))
        values = {f"eval/{name}": value for name, value in scores.items()}
        best = scores.get(BEST_METRIC)
        improved = best is not None and (self.state.best is None or best < self.state.best)
        if improved:
            self.state.best, self.state.best_nimg = best, self.state.nimg
        if self.state.best is not None and self.state.best_nimg is not None:
            values[f"best/{BEST_METRIC}"] = self.state.best
            values["best/kimg"] = self.state.best_nimg / 1000
        values["perf/train_seconds"] = self.state.seconds
        self.listener.on_metrics(self.state.nimg, values)
        return improved

    def _log(self) -> None:
        means = {name: total / self.state.counts[name] for name, total in self.state.sums.items()}
        means["train/skipped_updates"] = float(self.state.skipped)
        means["perf/kimg"] = self.state.nimg / 1000
        self.state.sums, self.state.counts = {}, {}
        self.listener.on_metrics(self.state.nimg, {**means, **self._clock.read()})

    def _checkpoint(self, must: bool = False) -> None:
        """Write a checkpoint; a failure stops the run only where it would lose the result."""
        if self.folder is None:
            return
        try:
            progress = {**asdict(self.state), "identity": self.identity}
            path = save_checkpoint(self.folder, self._stateful(), progress, self.ranks)
        except CheckpointError as error:
            if must:
                raise
            self.listener.on_warning(self.state.nimg, f"{error}. Training goes on.")
            return
        if self.ranks.is_main:
            keep = self.config.schedule.keep_checkpoints
            prune_checkpoints(self.folder, keep, self.state.best_nimg)
        self.listener.on_checkpoint(self.state.nimg, path)

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


class _Clock:
    """Throughput of iterations alone, evaluation and checkpoints excluded."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self.images_per_s = 0.0
        self._began = 0.0
        self._counts = self._counts_read = (0, 0)

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self, images: int, forward: int, backward: int) -> float:
        """Count an iteration, given all network evaluations so far; its seconds."""
        seconds = time.perf_counter() - self._began
        self.seconds += seconds
        self.images += images
        self.images_per_s = self.images / self.seconds
        self._counts = (forward, backward)
        return seconds

    def read(self) -> dict[str, float]:
        """Images a second and network evaluations an image since the last reading."""
        forward, backward = (
            (now - before) / max(1, self.images)
            for now, before in zip(self._counts, self._counts_read, strict=True)
        )
        values = {
            "perf/images_per_s": self.images_per_s,
            "perf/nfe_per_image": forward,
            "perf/backward_per_image": backward,
        }
        self._counts_read, self.images, self.seconds = self._counts, 0, 0.0
        return values


def _adam(network: nn.Module, settings: AdamConfig) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        network.parameters(),
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
