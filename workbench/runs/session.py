"""One rank's part of a run, to its results: teacher, trainer, evaluation, tracker, figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.data.prompts import PromptSet
from workbench.errors import InterruptedRunError, PrunedRunError
from workbench.evaluation import image_grid
from workbench.evaluation.drift import Ratio
from workbench.evaluation.grids import NotFiniteError
from workbench.methods import method_type
from workbench.metrics import metric_info
from workbench.runs.baselines import BaselineCache
from workbench.runs.figures import draw_samples
from workbench.runs.looks import LookMeasurement
from workbench.runs.signals import stop_on_signals
from workbench.runs.spec import RunSpec
from workbench.runs.start import load_start
from workbench.runs.state import OUTCOME, RunState
from workbench.runs.tags import BEST, EVALUATION, LAST, REFERENCE, SHOWN, fresh_key, fresh_seed
from workbench.runs.tasks import RunPairs, open_task
from workbench.runs.tracking import TrackerListener, open_tracker
from workbench.samplers import STUDENT, TEACHER, sampler_name
from workbench.students.measure import (
    Measure,
    Measurement,
    Row,
    SampledModel,
    Samplers,
    measure_all,
)
from workbench.students.text import Say, TextJob
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.checks import check_is_teacher
from workbench.teachers.hub import revision_of
from workbench.tracking import STUDENT_SAMPLES, InputData, RunStatus, Tracker
from workbench.training.events import Listener, Listeners, StopFlag
from workbench.training.networks import DistillationInputs
from workbench.training.parallel import Ranks, init_distributed
from workbench.training.state import TrainingState
from workbench.training.trainer import Trainer
from workbench.workspace import write_json


class Session:
    """One rank's part of a run."""

    def __init__(
        self,
        spec: RunSpec,
        teacher: Path,
        prompts: PromptSet,
        ranks: Ranks,
        tracker: Tracker,
        listener: Listener,
        stop: StopFlag,
        say: Say,
    ) -> None:
        self.spec, self.config, self.folder = spec, spec.config, spec.folder
        self.prompts, self.ranks, self.tracker, self.stop = prompts, ranks, tracker, stop
        self.listeners = Listeners(listener, TrackerListener(tracker, self.folder.path))
        settings, text = self.config.drawn_evaluation, TextJob(spec.workspace, ranks, stop, say)
        self.task = open_task(self.config, teacher, prompts.prompts, text)
        self.teacher, encoded = self.task.teacher, self.task.encoded
        self.samplers = Samplers(self.teacher, settings, ranks.device, encoded.uncond())
        self.measurement: Measurement | None = None
        if self.task.evaluator is not None:
            scratch, tell = self.folder.path, self.listeners.on_evaluation
            self.measurement = Measurement(
                self.task.evaluator, self.samplers, encoded, ranks, scratch, tell
            )
        self.looks: LookMeasurement | None = None
        if self.task.patch is not None:
            self.looks = LookMeasurement(self.task, self.samplers, settings, ranks)
        self.baselines = BaselineCache(spec.workspace.cache, self.config, self.teacher, ranks)
        self.drift: Mapping[str, Ratio] = {}
        self.shown: tuple[int, Tensor] | None = None  # the student's last grid, and of when
        self.last_row: Row | None = None
        self.start: dict[str, str] | None = None
        self.pairs: RunPairs | None = None
        self.trainer = self._trainer()
        self.teacher.release_network()
        self._check_teacher()
        self._report_inputs()

    def _check_teacher(self) -> None:
        """Refuse a few-step student as the teacher; what has passed once is not asked again.

        Raises:
            RequestError: as :func:`check_is_teacher`.
        """
        if self.teacher.start is not None:
            return
        passed = self.spec.workspace.cache / "teachers" / f"{self.teacher.fingerprint}.checked"
        if self.ranks.broadcast(passed.exists()):
            return
        cond = self.task.encoded.rows(self.task.shown[:2])
        on_device = cond.to(self.ranks.device) if cond else None
        check_is_teacher(self.trainer.networks.teacher, self.teacher.latent_shape, on_device)
        if self.ranks.is_main:
            passed.parent.mkdir(parents=True, exist_ok=True)
            passed.touch()

    def _trainer(self) -> Trainer:
        prompts = self.prompts
        stored = self.task.encoded.view(prompts.prompts) if prompts.prompts else None
        if (
            stored is not None
            and self.ranks.is_main
            and (warning := self.task.text_warning(prompts.prompts))
        ):
            self.listeners.on_warning(0, warning)
        fingerprint = f"{self.teacher.fingerprint}/{prompts.fingerprint}"
        start = load_start(self.config, self.folder.path, self.teacher)
        if start is not None:
            fingerprint += f"/{start.weights}"
            self.start = start.as_dict()
        self.pairs = self.task.pairs()
        if self.pairs is not None:
            fingerprint += f"/{self.pairs.fingerprint}"
        student = DistillationInputs(
            self.teacher.network,
            self.teacher.latent_shape,
            stored,
            self.samplers.uncond,
            start=self.teacher.start,
            generator=start.network if start else None,
            fingerprint=fingerprint,
            pairs=self.pairs,
            weights=self.teacher.weights,
        )
        folder = self.folder.checkpoints
        return Trainer(
            self.config, student, self.ranks, folder, self.listeners, self.evaluate, self.stop
        )

    @property
    def _learns_from_prompts(self) -> bool:
        return method_type(self.config.method).needs_prompts

    def _prompts(self) -> dict[str, Any] | None:
        """The prompts that the run learns from; None for a method that learns from pairs alone."""
        if not self._learns_from_prompts:
            return None
        prompts = self.prompts
        count, fingerprint = len(prompts), prompts.fingerprint
        return {"source": prompts.source, "count": count, "fingerprint": fingerprint}

    def _report_inputs(self) -> None:
        """Tell the tracker what goes into the run."""
        prompts = self.prompts
        reference = self.task.reference
        if self.measurement is not None:
            self.tracker.set_tags({EVALUATION: self.measurement.evaluator.protocol})
        if reference is not None:
            self.tracker.set_tags({REFERENCE: reference})
        if self.looks is not None:
            self.tracker.set_tags({SHOWN: json.dumps(list(self.task.shown))})
        self.tracker.log_artifact(self.folder.config_file)
        if self._learns_from_prompts:
            inputs = InputData.of_prompts("prompts", prompts.prompts, prompts.source)
            self.tracker.log_inputs(inputs)
        if (compared := self.task.input_data()) is not None:
            self.tracker.log_inputs(compared)
        if self.ranks.is_main and self.pairs is not None:
            self.pairs.report(self.tracker, partial(self.listeners.on_warning, 0))
        if self.ranks.is_main and prompts.dropped:
            self.listeners.on_warning(
                0, f"{prompts.dropped} empty prompts of {prompts.source} were left out."
            )

    def run(self) -> None:
        """Train, measure, write the results, whose file says that all is done, then draw."""
        state = self.trainer.train()
        rows = measure_all(self._final_models(), self.ranks, lambda: self.stop.requested)
        pictures = self._grid_rows(state.nimg)
        if self.looks is not None and not self.drift:  # resumed behind its last evaluation
            k = self.config.generator.steps
            with self._no_picture_is_no_end(state.nimg):
                self._images(
                    self.samplers.of_student(self.trainer.average, self.config.generator, k)
                )
        fresh = self._fresh_rows(state)
        if not self.ranks.is_main:
            return
        results: dict[str, Any] = {
            "run": self.folder.name,
            "teacher": {
                "name": self.config.teacher,
                "fingerprint": self.teacher.fingerprint,
                "revision": revision_of(self.teacher.folder),
            },
            "prompts": self._prompts(),
            "pairs": self.pairs.as_dict() if self.pairs else None,
            "start": self.start,
            "nimg": state.nimg,
            "training_seconds": state.seconds,
            "primary_metric": self.primary,
            "best": {**self._best(state.best), "nimg": state.best_nimg},
            "drift": {name: asdict(ratio) for name, ratio in self.drift.items()},
            "skipped_updates": state.skipped,
            "events": state.stability.events,
            "table": [row.as_dict() for row in rows],
            "fresh": [row.as_dict() for row in fresh],
            **self.task.facts(),
        }
        values = {key: value for row in fresh for key, value in row.tracked().items()}
        self.listeners.on_metrics(state.nimg, {**_table_metrics(rows), **values})
        kept = self.task.keep(pictures, self.folder.figures)
        self._write(results, kept)
        files = [*kept, *self._draw(results["table"], pictures, state.nimg)]
        for file in files:
            self.tracker.log_artifact(file, "figures")
        self._write(results, files)

    def _write(self, results: dict[str, Any], files: Sequence[Path]) -> None:
        results["figures"] = [str(file) for file in files]
        write_json(self.folder.results_file, results)
        self.tracker.log_artifact(self.folder.results_file)

    def _best(self, score: float | None) -> dict[str, float | None]:
        return {} if self.primary is None else {self.primary: score}

    @property
    def primary(self) -> str | None:
        """What tells the run's best moment."""
        return self.config.evaluation.primary_metric

    def _final_models(self) -> Iterator[tuple[SampledModel, Measure]]:
        """Teacher and student at every step count that the configuration asks for."""
        measurement, settings = self.measurement, self.config.evaluation
        if measurement is None:
            return
        teacher, student = self.trainer.networks.teacher, self.trainer.average
        of_teacher = partial(self.baselines.row, measurement)
        for steps in settings.stock_steps:
            yield self.samplers.of_stock(teacher, steps), of_teacher
        for steps in settings.teacher_steps:
            yield self.samplers.of_teacher(teacher, steps), of_teacher
        for steps in self.config.student_steps:
            model = self.samplers.of_student(student, self.config.generator, steps)
            yield model, self._student_row
        for model in self.task.further_models():
            yield model, measurement.row

    def _fresh_rows(self, state: TrainingState) -> list[FreshRow]:
        """The last and the best weights at K steps, on noise that no evaluation has drawn.

        The best one is the lowest of several noisy scores and looks better than it is; at fresh
        seeds it does not. The average holds the best weights afterwards.
        """
        count = self.config.evaluation.fresh_seeds
        if self.measurement is None or not count:
            return []
        rows = self._at_fresh_seeds(LAST, state.nimg)
        best = state.best_nimg
        if best == state.nimg:
            rows += [replace(row, weights=BEST) for row in rows]
        elif best is not None:
            if self.trainer.load_best():
                rows += self._at_fresh_seeds(BEST, best)
            else:
                text = (
                    f"The best weights, of {best / 1000:g} kimg, cannot be read: no fresh scores."
                )
                self.listeners.on_warning(state.nimg, text)
        return rows

    def _at_fresh_seeds(self, weights: str, nimg: int) -> list[FreshRow]:
        assert self.measurement is not None
        generator = self.config.generator
        model = self.samplers.of_student(self.trainer.average, generator, generator.steps)
        numbers = range(1, self.config.evaluation.fresh_seeds + 1)
        seeds = [fresh_seed(self.samplers.seed, number) for number in numbers]
        measures = [self.measurement.at_seed(seed).row for seed in seeds]
        rows = measure_all(
            [(model, measure) for measure in measures], self.ranks, lambda: self.stop.requested
        )
        return [
            FreshRow(weights, number, nimg, seed, row)
            for number, seed, row in zip(numbers, seeds, rows, strict=True)
        ]

    def _student_row(self, model: SampledModel) -> Row:
        """Measured, unless the run's last evaluation has just done so on the same weights."""
        last = self.last_row
        if last is not None and last.steps == model.steps:
            return last
        assert self.measurement is not None
        return self.measurement.row(model)

    def _best_teacher(self) -> SampledModel:
        """The teacher as its users run it, where that is measured; else by its most Euler steps."""
        teacher, settings = self.trainer.networks.teacher, self.config.evaluation
        if settings.stock_steps:
            return self.samplers.of_stock(teacher, max(settings.stock_steps))
        return self.samplers.of_teacher(teacher, max(settings.teacher_steps))

    def evaluate(self, nimg: int, average: VelocityNetwork) -> Mapping[str, float]:
        """The student at all its steps: scores, look, and a grid of the same prompts and noise."""
        model = self.samplers.of_student(
            average, self.config.generator, self.config.generator.steps
        )
        scores = self._scores(nimg, model)
        with self._no_picture_is_no_end(nimg):
            images = self._images(model)
            self.shown = nimg, images
            if self.ranks.is_main:
                grid = image_grid({"student": self.task.pictures(images)}, self.task.captions())
                self.tracker.log_image(STUDENT_SAMPLES, grid, nimg)
            scores |= {name: ratio.value for name, ratio in self.drift.items()}
        return scores

    def _scores(self, nimg: int, model: SampledModel) -> dict[str, float]:
        """By metric name; empty where nothing is measured."""
        if self.measurement is None:
            return {}
        try:
            self.last_row = self.measurement.row(model)
        except NotFiniteError as error:
            if not self.config.training.stability.rollback or self.primary is None:
                raise
            self.last_row = None  # what was measured before is not of these weights
            self.listeners.on_warning(nimg, f"No score: {error}")
            return {self.primary: metric_info(self.primary).worst}
        return dict(self.last_row.scores)

    @contextmanager
    def _no_picture_is_no_end(self, nimg: int) -> Iterator[None]:
        """Training goes on without a picture: the weights may recover, and scores judge them."""
        try:
            yield
        except NotFiniteError as error:
            self.listeners.on_warning(nimg, f"No sample grid: {error}")

    def _grid_rows(self, nimg: int) -> dict[str, Tensor]:
        """Teacher at its best and at K, and student at K: the same prompts and noise."""
        k = self.config.generator.steps
        best = self._best_teacher()
        models = {
            sampler_name(best.name, best.steps): best,
            sampler_name(TEACHER, k): self.samplers.of_teacher(self.trainer.networks.teacher, k),
        }
        rows = {caption: self._first_images(model) for caption, model in models.items()}
        if self.shown is not None and self.shown[0] == nimg:  # just drawn, of these very weights
            return {**rows, sampler_name(STUDENT, k): self.shown[1]}
        student = self.samplers.of_student(self.trainer.average, self.config.generator, k)
        return {**rows, sampler_name(STUDENT, k): self._first_images(student)}

    def _images(self, model: SampledModel) -> Tensor:
        """The student's shown samples, whose drift from the teacher's is kept."""
        if self.looks is None:
            return self._first_images(model)
        self.drift = {}
        looked = self.looks.measure(model)
        self.drift = self.looks.drift(looked.look, self._best_teacher, self.baselines)
        return looked.images

    def _first_images(self, model: SampledModel) -> Tensor:
        """One sample for each shown prompt, on the CPU; the same on every rank."""
        if self.looks is not None:
            return self.looks.first_images(model)
        cond, count = self.task.encoded.rows(self.task.shown), len(self.task.shown)
        return self.samplers.images(model, cond, 0, count).cpu()

    def _draw(
        self, table: list[dict[str, Any]], rows: Mapping[str, Tensor], nimg: int
    ) -> list[Path]:
        """Curve and samples, as far as they can be drawn: the results are already written."""
        folder, task = self.folder, self.task

        def samples() -> list[Path]:
            pictures = {caption: task.pictures(drawn).numpy() for caption, drawn in rows.items()}
            return draw_samples(pictures, task.captions(), folder.figures)

        files: list[Path] = []
        for what, draw in (("curve", partial(task.draw_curve, folder, table)), ("grid", samples)):
            try:
                files += draw()
            except Exception as error:  # whatever a library raises: no picture ends a finished run
                told = f"{type(error).__name__}: {error}".splitlines()[0]
                self.listeners.on_warning(nimg, f"No {what} of the run's end: {told}")
        return files


@dataclass(frozen=True)
class FreshRow:
    """Scores of the last or the best weights at a fresh evaluation seed."""

    weights: str
    number: int
    nimg: int
    seed: int
    row: Row

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = {"weights": self.weights, "nimg": self.nimg, "seed": self.seed}
        return {**told, "steps": self.row.steps, **self.row.scores}

    def tracked(self) -> dict[str, float]:
        """The scores by their names in MLflow."""
        return {
            fresh_key(self.weights, self.number, name): value
            for name, value in self.row.scores.items()
        }


def _table_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """The final table as metrics: table/student_4_fid, ..."""
    return {
        f"table/{row.model}_{row.steps}_{name}": value
        for row in rows
        for name, value in {
            **row.scores,
            "nfe": row.nfe,
            "ms_per_image": row.ms_per_image,
        }.items()
    }


def run_on_ranks(
    spec: RunSpec,
    teacher: Path,
    prompts: PromptSet,
    make_listener: Callable[[], Listener],
    say: Say,
) -> None:
    """What each rank does.

    Args:
        teacher: its folder.
        make_listener: called on rank 0 alone.
    """
    with init_distributed() as ranks, stop_on_signals() as stop:
        listener = make_listener() if ranks.is_main else Listener()
        with _tracked(spec, ranks) as tracker:
            try:
                Session(spec, teacher, prompts, ranks, tracker, listener, stop, say).run()
            finally:
                listener.on_end()


@contextmanager
def _tracked(spec: RunSpec, ranks: Ranks) -> Iterator[Tracker]:
    """The run's tracker, which ends in the state that the run truly ends in."""
    tracker = open_tracker(spec, ranks)
    tracker.set_tags({OUTCOME: RunState.RUNNING})
    status: RunStatus = "FAILED"
    state = RunState.FAILED
    try:
        yield tracker
        status, state = "FINISHED", RunState.FINISHED
    except PrunedRunError:
        status, state = "KILLED", RunState.PRUNED
        raise
    except (InterruptedRunError, KeyboardInterrupt):
        status, state = "KILLED", RunState.INTERRUPTED
        raise
    finally:
        tracker.set_tags({OUTCOME: state})
        tracker.finish(status)
