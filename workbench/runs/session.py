"""One rank's part of a run, to its results: teacher, engine, evaluation, tracker, figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.errors import PrunedRunError
from workbench.evaluation import image_grid
from workbench.evaluation.grids import NotFiniteError
from workbench.methods import method_type
from workbench.runs.figures import draw_samples
from workbench.runs.folder import RunFolder
from workbench.runs.measure import (
    Measure,
    Measurement,
    Row,
    SampledModel,
    Samplers,
    measure_all,
)
from workbench.runs.signals import stop_on_signals
from workbench.runs.start import load_start
from workbench.runs.state import OUTCOME, RunState
from workbench.runs.tags import EVALUATION, REFERENCE
from workbench.runs.teacher_rows import TeacherRows
from workbench.runs.text import Say, TextJob
from workbench.runs.tracking import TrackerListener, open_tracker
from workbench.runs.worlds import RunPairs, open_world
from workbench.teachers.base import VelocityNetwork
from workbench.teachers.checks import check_is_teacher
from workbench.teachers.hub import revision_of
from workbench.teachers.prompt_sources import PromptSet
from workbench.tracking import STUDENT_SAMPLES, InputData, RunStatus, Tracker
from workbench.training.config import RunConfig
from workbench.training.engine import Engine, InterruptedRunError, Student
from workbench.training.events import Listener, Listeners, StopFlag
from workbench.training.parallel import Ranks, joined_ranks
from workbench.workspace import Workspace, write_json


@dataclass(frozen=True)
class SessionJob:
    """The part of a request that every rank needs; it travels between processes."""

    config: RunConfig
    workspace: Workspace
    folder: RunFolder
    teacher: Path
    tracking_uri: str
    make_listener: Callable[[], Listener]
    prompts: PromptSet
    say: Say
    tags: Mapping[str, str]


class Session:
    """One rank's part of a run."""

    def __init__(
        self, job: SessionJob, ranks: Ranks, tracker: Tracker, listener: Listener, stop: StopFlag
    ) -> None:
        self.job, self.config, self.ranks = job, job.config, ranks
        self.tracker, self.stop = tracker, stop
        self.listeners = Listeners(listener, TrackerListener(tracker, job.folder.path))
        settings = self.config.evaluation
        self.world = open_world(
            self.config,
            job.teacher,
            job.prompts.prompts,
            TextJob(job.workspace, ranks, stop, job.say),
        )
        self.teacher, encoded = self.world.teacher, self.world.encoded
        self.samplers = Samplers(self.teacher, settings, ranks.device, encoded.uncond())
        scratch, tell = job.folder.path, self.listeners.on_evaluation
        self.measurement = Measurement(
            self.world.evaluator, self.samplers, encoded, ranks, scratch, tell
        )
        self.teacher_rows = TeacherRows(
            job.workspace.cache, self.config, self.teacher, self.measurement
        )
        self.shown_cond = encoded.rows(self.world.shown)
        self.last_row: Row | None = None
        self.start: dict[str, str] | None = None
        self.pairs: RunPairs | None = None
        if self.teacher.start is None and not job.folder.checkpoints.exists():
            cond = encoded.rows(self.world.shown[:2])
            on_device = cond.to(ranks.device) if cond else None
            check_is_teacher(self.teacher.network, self.teacher.latent_shape, on_device)
        self.engine = self._engine()
        self.teacher.release_network()
        self._report_inputs()

    def _engine(self) -> Engine:
        prompts = self.job.prompts
        stored = self.world.encoded.view(prompts.prompts)
        if self.ranks.is_main and (warning := self.world.text_warning(prompts.prompts)):
            self.listeners.on_warning(0, warning)
        fingerprint = f"{self.teacher.fingerprint}/{prompts.fingerprint}"
        start = load_start(self.config, self.job.folder.path, self.teacher)
        if start is not None:
            fingerprint += f"/{start.weights}"
            self.start = start.as_dict()
        self.pairs = self.world.pairs()
        if self.pairs is not None:
            fingerprint += f"/{self.pairs.fingerprint}"
        student = Student(
            self.teacher.network,
            self.teacher.latent_shape,
            stored,
            self.samplers.uncond,
            start=self.teacher.start,
            generator=start.network if start else None,
            fingerprint=fingerprint,
            pairs=self.pairs,
        )
        folder = self.job.folder.checkpoints
        return Engine(
            self.config, student, self.ranks, folder, self.listeners, self.evaluate, self.stop
        )

    @property
    def _learns_from_prompts(self) -> bool:
        return method_type(self.config.method).learns_from_prompts

    def _prompts(self) -> dict[str, Any] | None:
        """The prompts that the run learns from; None for a method that learns from pairs alone."""
        if not self._learns_from_prompts:
            return None
        prompts = self.job.prompts
        count, fingerprint = len(prompts), prompts.fingerprint
        return {"source": prompts.source, "count": count, "fingerprint": fingerprint}

    def _report_inputs(self) -> None:
        """Tell the tracker what goes into the run."""
        prompts = self.job.prompts
        world = self.world
        protocol = self.measurement.evaluator.protocol
        self.tracker.set_tags({EVALUATION: protocol, REFERENCE: world.reference})
        self.tracker.log_artifact(self.job.folder.config_file)
        if self._learns_from_prompts:
            inputs = InputData.of_prompts("prompts", prompts.prompts, prompts.source)
            self.tracker.log_inputs(inputs)
        self.tracker.log_inputs(world.input_data())
        if self.ranks.is_main and self.pairs is not None:
            self.pairs.report(self.tracker, partial(self.listeners.on_warning, 0))
        if self.ranks.is_main and prompts.dropped:
            self.listeners.on_warning(
                0, f"{prompts.dropped} empty prompts of {prompts.source} were left out."
            )

    def run(self) -> None:
        """Train, measure, draw, and write the results last: their file says that all is done."""
        state = self.engine.train()
        rows = measure_all(self._final_models(), self.ranks, lambda: self.stop.requested)
        pictures = self._grid_rows()
        if not self.ranks.is_main:
            return
        results: dict[str, Any] = {
            "run": self.job.folder.name,
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
            "headline": self.world.evaluator.headline,
            "best": {self.world.evaluator.headline: state.best, "nimg": state.best_nimg},
            "skipped_updates": state.skipped,
            "events": state.stability.events,
            "table": [row.as_dict() for row in rows],
            **self.world.facts(),
        }
        self.listeners.on_metrics(state.nimg, _table_metrics(rows))
        files = self._draw([row.as_dict() for row in rows], pictures, state.nimg)
        results["figures"] = [str(file) for file in files]
        write_json(self.job.folder.results_file, results)
        self.tracker.log_artifact(self.job.folder.results_file)

    def _final_models(self) -> Iterator[tuple[SampledModel, Measure]]:
        """Teacher and student at every step count that the configuration asks for."""
        teacher, student = self.engine.networks.teacher, self.engine.average
        for steps in self.config.evaluation.teacher_steps:
            yield self.samplers.of_teacher(teacher, steps), self.teacher_rows.row
        for steps in self.config.student_steps:
            model = self.samplers.of_student(student, self.config.generator, steps)
            yield model, self._student_row
        for model in self.world.further_models():
            yield model, self.measurement.row

    def _student_row(self, model: SampledModel) -> Row:
        """Measured, unless the run's last evaluation has just done so on the same weights."""
        last = self.last_row
        return (
            last if last is not None and last.steps == model.steps else self.measurement.row(model)
        )

    def evaluate(self, nimg: int, average: VelocityNetwork) -> Mapping[str, float]:
        """The student at all its steps: scores, and a grid of the same prompts and noise."""
        steps = self.config.generator.steps
        model = self.samplers.of_student(average, self.config.generator, steps)
        images = self._images(model)
        if self.ranks.is_main:
            with self._no_picture_is_no_end(nimg):
                grid = image_grid({"student": self.world.pictures(images)}, self.world.captions())
                self.tracker.log_image(STUDENT_SAMPLES, grid, nimg)
        try:
            self.last_row = self.measurement.row(model)
        except NotFiniteError as error:
            if not self.config.training.stability.rollback:
                raise
            self.last_row = None  # what was measured before is not of these weights
            self.listeners.on_warning(nimg, f"No score: {error}")
            return {self.world.evaluator.headline: math.inf}
        return self.last_row.scores

    @contextmanager
    def _no_picture_is_no_end(self, nimg: int) -> Iterator[None]:
        """Training goes on without a picture: the weights may recover, and scores judge them."""
        try:
            yield
        except NotFiniteError as error:
            self.listeners.on_warning(nimg, f"No sample grid: {error}")

    def _grid_rows(self) -> dict[str, Tensor]:
        """Teacher at its largest step count and student at K: the same prompts and noise."""
        steps = max(self.config.evaluation.teacher_steps)
        k = self.config.generator.steps
        models = {
            f"teacher, {steps} steps": self.samplers.of_teacher(
                self.engine.networks.teacher, steps
            ),
            f"teacher, {k} steps": self.samplers.of_teacher(self.engine.networks.teacher, k),
            f"student, {k} steps": self.samplers.of_student(
                self.engine.average, self.config.generator, k
            ),
        }
        return {caption: self._images(model) for caption, model in models.items()}

    def _images(self, model: SampledModel) -> Tensor:
        return self.samplers.images(model, self.shown_cond, 0, len(self.world.shown)).cpu()

    def _draw(
        self, table: list[dict[str, Any]], rows: Mapping[str, Tensor], nimg: int
    ) -> list[Path]:
        folder = self.job.folder
        world = self.world
        pictures = {caption: world.pictures(drawn).numpy() for caption, drawn in rows.items()}
        files = [*world.draw_curve(folder, table), *world.keep(rows, folder.figures)]
        with self._no_picture_is_no_end(nimg):
            files += draw_samples(pictures, world.captions(), folder.figures)
        for file in files:
            self.tracker.log_artifact(file, "figures")
        return files


def _table_metrics(rows: Sequence[Row]) -> dict[str, float]:
    """The final table as metrics: table/student_4_fid, ..."""
    return {
        f"table/{row.model}_{row.steps}_{name}": value
        for row in rows
        for name, value in {**row.scores, "ms_per_image": row.ms_per_image}.items()
    }


def run_on_ranks(job: SessionJob | None) -> None:
    """What each rank does; rank 0 alone knows the job at first."""
    with joined_ranks() as ranks, stop_on_signals() as stop:
        job = ranks.from_main(job)
        if job is None:
            raise RuntimeError("rank 0 has no job")
        listener = job.make_listener() if ranks.is_main else Listener()
        with _tracked(job, ranks) as tracker:
            try:
                Session(job, ranks, tracker, listener, stop).run()
            finally:
                listener.on_end()


@contextmanager
def _tracked(job: SessionJob, ranks: Ranks) -> Iterator[Tracker]:
    """The run's tracker, which ends in the state that the run truly ends in."""
    tracker = open_tracker(
        job.config, job.folder.path, job.workspace, job.tracking_uri, ranks, job.tags
    )
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
